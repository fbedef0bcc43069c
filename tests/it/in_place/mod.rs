//! Packets that are written and read in place.
#![allow(
    unsafe_code,
    reason = "reading in place is unsafe, and so is advancing over what was written"
)]
#![allow(clippy::forget_non_drop, reason = "callers may, whatever a grant is made of")]

mod batches;
mod grants;
mod lent_bytes;
mod packets;
mod queue_model;

use bytes::{BufMut, Bytes};
use wakering::{Driver, Endpoint, Packet, Receiver, Sender, TryReserveError};

use crate::common::{SMALL, packet, pair_with_timeout};

/// Returns the sender of one end and the receiver of the other, and the two unused halves for the
/// caller to keep.
fn halves(here: Endpoint, there: Endpoint) -> (Sender, Receiver, (Receiver, Sender)) {
    let (tx, unused_rx) = here.into_split();
    let (unused_tx, rx) = there.into_split();
    (tx, rx, (unused_rx, unused_tx))
}

fn small_halves(driver: &Driver) -> (Sender, Receiver, (Receiver, Sender)) {
    let (face, handle) = pair_with_timeout(driver, SMALL, None);
    halves(face.into(), handle.into())
}

/// Writes a numbered packet in place.
fn commit(tx: &mut Sender, number: u64, len: usize) -> Result<(), TryReserveError> {
    let mut grant = tx.try_reserve(len)?;
    grant.put(packet(number, len));
    grant.commit().expect("nothing has ended");
    Ok(())
}

/// Turns a packet into a `Bytes` that points into the ring.
fn lend(packet: Packet<'_>) -> Bytes {
    // SAFETY: the peer is a part of this test, and writes nowhere but where it may.
    unsafe { packet.into_lent_bytes() }
}
