//! Streams in place: the sender writes a packet where it will lie, the receiver reads it there.

use std::hint::spin_loop;

use bytes::BufMut;
use wakering::{Packet, Receiver, Sender, TryRecvError, TryReserveError};

use crate::Result;
use crate::packet::{Check, Numbers, in_memory, stamp};

/// Packets of a batch.
const fn batch_of(bytes: usize) -> usize {
    if bytes < 1024 { 256 } else { (256 << 10) / bytes }
}

#[inline]
pub(crate) fn bytes<'a>(packet: &'a Packet<'_>) -> &'a [u8] {
    // SAFETY: the peer is this same program, and does not write to what it has sent.
    #[allow(unsafe_code, reason = "a peer that one does not trust has its packets copied")]
    unsafe {
        packet.as_slice()
    }
}

pub(crate) fn try_send<const N: usize>(mut tx: Sender, numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    for number in numbers {
        stamp(in_memory(&mut packet), number);
        let mut grant = loop {
            match tx.try_reserve(N) {
                Ok(grant) => break grant,
                Err(TryReserveError::Full) => spin_loop(),
                Err(error) => return Err(error.into()),
            }
        };
        grant.put_slice(&packet);
        grant.commit()?;
    }
    Ok(())
}

pub(crate) fn try_send_batch<const N: usize>(mut tx: Sender, mut numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    let mut next = numbers.next();
    while next.is_some() {
        let mut batch = tx.batch();
        for number in next.into_iter().chain(numbers.by_ref()).take(batch_of(N)) {
            stamp(in_memory(&mut packet), number);
            let mut grant = loop {
                match batch.try_reserve(N) {
                    Ok(grant) => break grant,
                    Err(TryReserveError::Full) => spin_loop(),
                    Err(error) => return Err(error.into()),
                }
            };
            grant.put_slice(&packet);
            grant.commit()?;
        }
        batch.publish()?;
        next = numbers.next();
    }
    Ok(())
}

pub(crate) fn try_receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    loop {
        match rx.try_recv_ref() {
            Ok(packet) => check.take::<N>(bytes(&packet)),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(TryRecvError::Closed(_)) => return Ok(()),
        }
    }
}

pub(crate) fn send_blocking<const N: usize>(mut tx: Sender, numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    for number in numbers {
        stamp(in_memory(&mut packet), number);
        let mut grant = tx.reserve_blocking(N)?;
        grant.put_slice(&packet);
        grant.commit()?;
    }
    Ok(())
}

pub(crate) fn receive_blocking<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    while let Some(packet) = rx.recv_ref_blocking() {
        check.take::<N>(bytes(&packet));
    }
    Ok(())
}

pub(crate) async fn send<const N: usize>(mut tx: Sender, numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    for number in numbers {
        stamp(in_memory(&mut packet), number);
        let mut grant = tx.reserve(N).await?;
        grant.put_slice(&packet);
        grant.commit()?;
    }
    Ok(())
}

pub(crate) async fn send_batch<const N: usize>(mut tx: Sender, mut numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    let mut next = numbers.next();
    while next.is_some() {
        let mut batch = tx.batch();
        for number in next.into_iter().chain(numbers.by_ref()).take(batch_of(N)) {
            stamp(in_memory(&mut packet), number);
            let mut grant = batch.reserve(N).await?;
            grant.put_slice(&packet);
            grant.commit()?;
        }
        batch.publish()?;
        next = numbers.next();
    }
    Ok(())
}

pub(crate) async fn receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    while let Some(packet) = rx.recv_ref().await {
        check.take::<N>(bytes(&packet));
    }
    Ok(())
}
