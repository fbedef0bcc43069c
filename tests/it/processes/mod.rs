//! Engines and applications in separate processes.

mod clocks;
mod costs;
mod forked_peers;
mod peers;
mod stopped_peers;

use wakering::{CloseReason, Endpoint, ShmError};

use crate::common::roles::open;
use crate::common::{self, child};

/// Returns the child's end, and the rest of its arguments.
fn as_child() -> Option<(Endpoint, Vec<String>)> {
    let mut arguments = child::arguments()?;
    let driver = common::driver(child::backend(&arguments[0])).unwrap();
    let end = open(&driver, &arguments[1], &arguments[2]);
    if arguments[1] == "engine" {
        child::say("open");
    }
    Some((end, arguments.split_off(3)))
}

/// Returns why a receive returned nothing.
fn recv_reason(end: &Endpoint, received: Option<impl Sized>) -> Option<CloseReason> {
    assert!(received.is_none());
    end.close_reason()
}

/// Returns why a send failed because the channel ended.
fn send_reason(sent: Result<(), ShmError>) -> Option<CloseReason> {
    match sent {
        Err(ShmError::Closed { reason, .. }) => Some(reason),
        _ => None,
    }
}
