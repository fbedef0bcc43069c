//! Streams of items of one length, many in a packet: the like of a slice of items.
//!
//! The sender collects items in an array and puts all of them into a packet at once; the receiver
//! copies a packet to an array and looks at the items there. Two copies of a few KiB at once are
//! faster than to write and read each item where it lies, and nothing here is unsafe.

use std::hint::spin_loop;

use bytes::BufMut;
use wakering::{Receiver, Sender, TryRecvError, TryReserveError};

use crate::Result;
use crate::packet::{Check, Numbers, stamp};

/// Bytes of a packet.
const PACKET: usize = 4096;

/// Bytes of a packet, aligned as items may have to be.
#[repr(align(64))]
struct Aligned([u8; PACKET]);

/// Fills `packet` with the next items, and returns those.
#[inline]
fn fill<'a, const N: usize>(packet: &'a mut Aligned, numbers: &mut Numbers) -> &'a [u8] {
    let mut len = 0;
    for item in packet.0.chunks_exact_mut(N) {
        let Some(number) = numbers.next() else { break };
        stamp(item, number);
        len += N;
    }
    &packet.0[..len]
}

pub(crate) fn try_send<const N: usize>(mut tx: Sender, mut numbers: Numbers) -> Result<()> {
    let mut packet = Aligned([0; PACKET]);
    loop {
        let items = fill::<N>(&mut packet, &mut numbers);
        if items.is_empty() {
            return Ok(());
        }
        let mut grant = loop {
            match tx.try_reserve(items.len()) {
                Ok(grant) => break grant,
                Err(TryReserveError::Full) => spin_loop(),
                Err(error) => return Err(error.into()),
            }
        };
        grant.put_slice(items);
        grant.commit()?;
    }
}

pub(crate) fn try_receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    let mut buffer = Aligned([0; PACKET]);
    loop {
        let packet = match rx.try_recv_ref() {
            Ok(packet) => packet,
            Err(TryRecvError::Empty) => {
                spin_loop();
                continue;
            }
            Err(TryRecvError::Closed(_)) => return Ok(()),
        };
        let items = &mut buffer.0[..packet.len()];
        packet.copy_to_slice(items);
        drop(packet);
        items.chunks_exact(N).for_each(|item| check.take::<N>(item));
    }
}

pub(crate) async fn send<const N: usize>(mut tx: Sender, mut numbers: Numbers) -> Result<()> {
    let mut packet = Aligned([0; PACKET]);
    loop {
        let items = fill::<N>(&mut packet, &mut numbers);
        if items.is_empty() {
            return Ok(());
        }
        let mut grant = tx.reserve(items.len()).await?;
        grant.put_slice(items);
        grant.commit()?;
    }
}

pub(crate) async fn receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    let mut buffer = Aligned([0; PACKET]);
    while let Some(packet) = rx.recv_ref().await {
        let items = &mut buffer.0[..packet.len()];
        packet.copy_to_slice(items);
        drop(packet);
        items.chunks_exact(N).for_each(|item| check.take::<N>(item));
    }
    Ok(())
}
