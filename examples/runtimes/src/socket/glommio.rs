//! Sockets of glommio.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use glommio::LocalExecutorBuilder;

use super::Futures;
use crate::task::{Task, perform};

pub fn run(socket: UnixStream, task: Task) -> io::Result<Option<f64>> {
    LocalExecutorBuilder::default().make()?.run(async {
        // SAFETY: `into_raw_fd` has given up the descriptor, which is that of a Unix socket.
        let socket = unsafe { glommio::net::UnixStream::from_raw_fd(socket.into_raw_fd()) };
        perform(task, Futures(socket)).await
    })
}
