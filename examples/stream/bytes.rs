//! Streams of `Bytes`: the sender copies a packet into the ring, the receiver out of it.

use std::hint::spin_loop;

use bytes::{BufMut, Bytes, BytesMut};
use wakering::{Receiver, Sender, TryRecvError, TrySendError};

use crate::Result;
use crate::packet::{Check, Numbers, in_memory, stamp};

pub(crate) async fn send<const N: usize>(mut tx: Sender, numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    for number in numbers {
        stamp(in_memory(&mut packet), number);
        tx.send(Bytes::copy_from_slice(&packet)).await?;
    }
    Ok(())
}

pub(crate) async fn receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    while let Some(packet) = rx.recv().await {
        check.take::<N>(&packet);
    }
    Ok(())
}

pub(crate) fn send_blocking<const N: usize>(mut tx: Sender, numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    for number in numbers {
        stamp(in_memory(&mut packet), number);
        tx.send_blocking(Bytes::copy_from_slice(&packet))?;
    }
    Ok(())
}

pub(crate) fn receive_blocking<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    while let Some(packet) = rx.recv_blocking() {
        check.take::<N>(&packet);
    }
    Ok(())
}

pub(crate) fn try_send<const N: usize>(mut tx: Sender, numbers: Numbers) -> Result<()> {
    let mut packet = [0; N];
    for number in numbers {
        stamp(in_memory(&mut packet), number);
        let mut next = Bytes::copy_from_slice(&packet);
        while let Err(error) = tx.try_send(next) {
            match error {
                TrySendError::Full(back) => next = back,
                error => return Err(error.into()),
            }
            spin_loop();
        }
    }
    Ok(())
}

pub(crate) fn try_receive<const N: usize>(rx: &mut Receiver, check: &mut Check) -> Result<()> {
    loop {
        match rx.try_recv() {
            Ok(packet) => check.take::<N>(&packet),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(TryRecvError::Closed(_)) => return Ok(()),
        }
    }
}

/// Packets of a batch.
const fn batch_of(bytes: usize) -> usize {
    if bytes < 1024 { 256 } else { (256 << 10) / bytes }
}

/// Fills `batch` with the next packets: pieces of one allocation, which `memory` gets back once
/// they are dropped.
fn fill<const N: usize>(batch: &mut Vec<Bytes>, memory: &mut BytesMut, numbers: &mut Numbers) {
    let mut packet = [0; N];
    batch.clear();
    memory.reserve(batch_of(N) * N);
    for number in numbers.take(batch_of(N)) {
        stamp(in_memory(&mut packet), number);
        memory.put_slice(&packet);
        batch.push(memory.split().freeze());
    }
}

pub(crate) async fn send_batch<const N: usize>(mut tx: Sender, mut numbers: Numbers) -> Result<()> {
    let (mut batch, mut memory) = (Vec::new(), BytesMut::new());
    loop {
        fill::<N>(&mut batch, &mut memory, &mut numbers);
        if batch.is_empty() {
            return Ok(());
        }
        tx.send_batch(&batch).await?;
    }
}

pub(crate) async fn receive_batch<const N: usize>(
    rx: &mut Receiver,
    check: &mut Check,
) -> Result<()> {
    let mut batch = Vec::new();
    while rx.recv_batch(&mut batch, batch_of(N)).await > 0 {
        for packet in batch.drain(..) {
            check.take::<N>(&packet);
        }
    }
    Ok(())
}

pub(crate) fn send_batch_blocking<const N: usize>(
    mut tx: Sender,
    mut numbers: Numbers,
) -> Result<()> {
    let (mut batch, mut memory) = (Vec::new(), BytesMut::new());
    loop {
        fill::<N>(&mut batch, &mut memory, &mut numbers);
        if batch.is_empty() {
            return Ok(());
        }
        tx.send_batch_blocking(&batch)?;
    }
}

pub(crate) fn receive_batch_blocking<const N: usize>(
    rx: &mut Receiver,
    check: &mut Check,
) -> Result<()> {
    let mut batch = Vec::new();
    while rx.recv_batch_blocking(&mut batch, batch_of(N)) > 0 {
        for packet in batch.drain(..) {
            check.take::<N>(&packet);
        }
    }
    Ok(())
}
