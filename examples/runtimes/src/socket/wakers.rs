//! Sockets for executors that have none: those of async-io, which waits on a thread of its own.

use std::io;
use std::os::unix::net::UnixStream;

use async_io::Async;

use super::Futures;
use crate::task::{Task, perform};

pub fn pollster(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    pollster::block_on(perform(task, Futures(Async::new(socket)?)))
}

pub fn futures(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    futures::executor::block_on(perform(task, Futures(Async::new(socket)?)))
}
