//! A second process that breaks the rules of the region or of the socket.

mod attacker;
mod crowd;
mod endless_ring;
mod floods;
mod leaks;
mod moved_waiters;
mod rules;
mod unknown_clients;
