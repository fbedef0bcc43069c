//! Sockets of smol.

use std::io;
use std::os::unix::net::UnixStream;

use smol::{Async, LocalExecutor};

use super::Futures;
use crate::task::{Task, perform};

pub fn one_thread(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    let socket = Futures(Async::new(socket)?);
    smol::block_on(LocalExecutor::new().run(perform(task, socket)))
}

pub fn all_threads(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    let socket = Futures(Async::new(socket)?);
    smol::block_on(smol::spawn(perform(task, socket)))
}
