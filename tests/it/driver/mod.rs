//! Drivers, in each of the ways to run one.

mod drive;
mod misuse;
mod parked;
