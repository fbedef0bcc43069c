//! Sockets of async-std.

use std::io;
use std::os::unix::net::UnixStream;

use async_std::os::unix::net;
use async_std::task::{block_on, spawn};

use super::Futures;
use crate::task::{Task, perform};

pub fn one_thread(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    block_on(perform(task, Futures(net::UnixStream::from(socket))))
}

pub fn all_threads(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    block_on(spawn(perform(task, Futures(net::UnixStream::from(socket)))))
}
