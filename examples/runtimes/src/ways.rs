//! All runtimes, each with its glue and its sockets.

use std::io;
use std::os::unix::net::UnixStream;

use runtimes::glue;

use crate::task::Task;
use crate::{channel, socket};

/// A runtime with its glue.
#[derive(Debug)]
pub struct Way {
    pub name: &'static str,
    /// The driver and the glue, in a few words.
    pub glue: &'static str,
    /// Does a task over the channel of this name.
    pub channel: fn(String, Task) -> io::Result<Option<f64>>,
    /// Does a task over a socket.
    pub socket: fn(UnixStream, Task) -> io::Result<Option<f64>>,
}

macro_rules! ways {
    ($($name:literal, $glue:literal: $module:ident, $socket:path;)*) => {
        /// All of them, in the order of the table.
        pub const WAYS: &[Way] = &[$(Way {
            name: $name,
            glue: $glue,
            channel: |name, task| {
                glue::$module::run(|driver| channel::work(driver.clone(), name, task))?
            },
            socket: $socket,
        }),*];
    };
}

ways! {
    "tokio, one thread", "polled, in an AsyncFd": tokio, socket::tokio::one_thread;
    "tokio, all threads", "polled, in a task's AsyncFd": tokio_threads, socket::tokio::all_threads;
    "smol, one thread", "AsyncIoDriver::block_on": smol, socket::smol::one_thread;
    "smol, parked", "parked in, Driver::block_on": smol_parked, socket::smol::one_thread;
    "smol, all threads", "AsyncIoDriver::into_task": smol_threads, socket::smol::all_threads;
    "async-std, one thread", "AsyncIoDriver::run": async_std, socket::async_std::one_thread;
    "async-std, parked", "parked in, Driver::block_on": pollster_parked,
        socket::async_std::one_thread;
    "async-std, all threads", "AsyncIoDriver::into_task": async_std_threads,
        socket::async_std::all_threads;
    "compio", "polled, in a PollFd": compio, socket::compio::run;
    "monoio", "polled, UnixStream::readable": monoio, socket::monoio::run;
    "monoio, background", "background (feature sync)": monoio_background, socket::monoio::run;
    "glommio", "background": glommio, socket::glommio::run;
    "glommio, polled", "polled, UnixStream::read": glommio_polled, socket::glommio::run;
    "pollster", "background": pollster, socket::wakers::pollster;
    "pollster, parked", "parked in, Driver::block_on": pollster_parked, socket::wakers::pollster;
    "futures", "background": futures, socket::wakers::futures;
}

/// Returns the runtime of this name.
pub fn find(name: &str) -> &'static Way {
    WAYS.iter().find(|way| way.name == name).unwrap_or_else(|| panic!("no runtime {name}"))
}
