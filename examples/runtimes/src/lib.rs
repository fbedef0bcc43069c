//! The glue between wakering and runtimes, which the tests run and the program measures.

pub mod glue;
