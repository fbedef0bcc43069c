//! Streams of items of one length, many in a packet: the like of a slice of items.
//!
//! The sender collects items in a chunk that stays in its first cache, and copies the whole chunk
//! to where the packet will lie. That is twice as fast as to put small items there one by one. The
//! receiver copies a packet out by chunks and looks at the items there, without `unsafe`; or, if
//! it trusts its peer, it looks at them where they lie.

use std::hint::spin_loop;

use bytes::BufMut;
use wakering::{Packet, Receiver, Sender, TryRecvError, TryReserveError};

use crate::Result;
use crate::in_place::bytes;
use crate::packet::{Check, Numbers, stamp};

/// Bytes of a chunk; a multiple of the items' length.
const CHUNK: usize = 4096;

/// Bytes of a packet that holds items of `N` bytes: 64 small ones, or 32 of 1 KiB.
const fn packet_bytes<const N: usize>() -> usize {
    if N < 1024 { CHUNK } else { 8 * CHUNK }
}

/// Items in memory of this side, aligned as items may have to be.
#[repr(align(64))]
struct Chunk([u8; CHUNK]);

/// Collects the next items. There are fewer than fit only if these are the last.
#[inline]
fn collect<'a, const N: usize>(chunk: &'a mut Chunk, numbers: &mut Numbers) -> &'a [u8] {
    let mut len = 0;
    for item in chunk.0.chunks_exact_mut(N) {
        let Some(number) = numbers.next() else { break };
        item.fill(0);
        stamp(item, number);
        len += N;
    }
    &chunk.0[..len]
}

/// Looks at all items of a packet in a chunk.
#[inline]
fn look<const N: usize>(packet: &Packet<'_>, chunk: &mut Chunk, check: &mut Check) {
    for offset in (0..packet.len()).step_by(CHUNK) {
        let items = &mut chunk.0[..CHUNK.min(packet.len() - offset)];
        packet.copy_to_slice_at(offset, items);
        items.chunks_exact(N).for_each(|item| check.take::<N>(item));
    }
}

pub(crate) fn try_send<const N: usize>(mut tx: Sender, mut numbers: Numbers) -> Result<()> {
    let (mut chunk, mut is_over) = (Chunk([0; CHUNK]), false);
    while !is_over {
        let mut grant = loop {
            match tx.try_reserve(packet_bytes::<N>()) {
                Ok(grant) => break grant,
                Err(TryReserveError::Full) => spin_loop(),
                Err(error) => return Err(error.into()),
            }
        };
        while !is_over && grant.has_remaining_mut() {
            let items = collect::<N>(&mut chunk, &mut numbers);
            grant.put_slice(items);
            is_over = items.len() < CHUNK;
        }
        grant.commit()?;
    }
    Ok(())
}

pub(crate) fn try_receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    let mut chunk = Chunk([0; CHUNK]);
    loop {
        match rx.try_recv_ref() {
            Ok(packet) => look::<N>(&packet, &mut chunk, check),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(TryRecvError::Closed(_)) => return Ok(()),
        }
    }
}

pub(crate) fn try_receive_in_place<const N: usize>(
    rx: &mut Receiver,
    check: &mut Check,
) -> Result<()> {
    loop {
        match rx.try_recv_ref() {
            Ok(packet) => bytes(&packet).chunks_exact(N).for_each(|item| check.take::<N>(item)),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(TryRecvError::Closed(_)) => return Ok(()),
        }
    }
}

pub(crate) async fn send<const N: usize>(mut tx: Sender, mut numbers: Numbers) -> Result<()> {
    let (mut chunk, mut is_over) = (Chunk([0; CHUNK]), false);
    while !is_over {
        let mut grant = tx.reserve(packet_bytes::<N>()).await?;
        while !is_over && grant.has_remaining_mut() {
            let items = collect::<N>(&mut chunk, &mut numbers);
            grant.put_slice(items);
            is_over = items.len() < CHUNK;
        }
        grant.commit()?;
    }
    Ok(())
}

pub(crate) async fn receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    let mut chunk = Chunk([0; CHUNK]);
    while let Some(packet) = rx.recv_ref().await {
        look::<N>(&packet, &mut chunk, check);
    }
    Ok(())
}

pub(crate) async fn receive_in_place<const N: usize>(
    rx: &mut Receiver,
    check: &mut Check,
) -> Result<()> {
    while let Some(packet) = rx.recv_ref().await {
        bytes(&packet).chunks_exact(N).for_each(|item| check.take::<N>(item));
    }
    Ok(())
}
