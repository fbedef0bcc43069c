//! This program's processes, and the words on their command lines.

use std::fmt::Debug;
use std::process::Command;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_setaffinity};
use wakering::Backend;

pub(crate) fn this_program() -> Command {
    Command::new(std::env::current_exe().expect("a path"))
}

pub(crate) fn backend(name: &str) -> Backend {
    if name == "epoll" { Backend::Epoll } else { Backend::IoUring }
}

pub(crate) fn number<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a number")
}

pub(crate) fn stay_on(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("one of our own");
}
