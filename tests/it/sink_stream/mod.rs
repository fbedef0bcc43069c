//! The halves keep the rules of `Sink` and `Stream`.

mod adapters;
mod polling;
mod sink;

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Sink;
use wakering::{Endpoint, Sender, ShmError};

use crate::common::packet;

/// Fills the ring through the half, and returns how many packets it took.
fn fill(tx: &mut Sender) -> u64 {
    (0..).find(|&next| tx.try_send(packet(next, 8)).is_err()).unwrap()
}

fn split(here: Endpoint) -> (Sender, wakering::Receiver) {
    here.into_split()
}

fn ready(tx: &mut Sender) -> Poll<Result<(), ShmError>> {
    let mut cx = Context::from_waker(futures::task::noop_waker_ref());
    Pin::new(tx).poll_ready(&mut cx)
}
