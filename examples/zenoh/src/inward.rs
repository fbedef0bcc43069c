//! From the network to the channel.
//!
//! zenoh calls back on a thread of its own, where nothing may block. Packets that find room in the
//! ring are written there at once, so that the call that brought them also wakes the application.
//! Those that find none are copied to the overflow, which the window bounds. From then on all go
//! there, until [`drain`] has written everything, on the thread of the [`Peer`](crate::peer::Peer).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use wakering::{Batch, CloseReason, Sender, TryReserveError};

use crate::breach::Breach;
use crate::circuit::Circuit;
use crate::credit::{Account, cost};
use crate::wire::{self, End, Offer};

/// One direction of a circuit, at its receiving end.
#[derive(Debug)]
pub struct Inward {
    place: Place,
    overflow: BytesMut,
    account: Account,
    max_packet: usize,
    /// The free bytes of the ring when it is empty.
    empty_bytes: usize,
    packets: u64,
    end: Option<End>,
}

/// Where the sender to the channel is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each direction of a channel")]
enum Place {
    Here(Sender),
    /// With the drain.
    Away,
    /// The channel takes no more packets. Those that still come are dropped.
    Gone,
}

impl Inward {
    /// Begins to write to `sender`. The channel is cancelled unless all of it was written and the
    /// other side has said so.
    pub fn new(mut sender: Sender, offer: Offer) -> Self {
        sender.cancel_on_drop(true);
        Self {
            max_packet: sender.max_packet(),
            empty_bytes: sender.free_bytes(),
            place: Place::Here(sender),
            overflow: BytesMut::new(),
            account: Account::new(offer),
            packets: 0,
            end: None,
        }
    }

    /// Takes the packets of a message. Never blocks.
    pub fn receive(&mut self, data: &[u8]) -> Result<(), Breach> {
        if self.end.is_some() {
            return Err(Breach::AfterEnd);
        }
        let Self { place, overflow, account, .. } = self;
        let is_gone = matches!(place, Place::Gone);
        // What is written is published together, with one wake, when this is dropped.
        let mut batch = match place {
            Place::Here(sender) if overflow.is_empty() => Some(sender.batch()),
            _ => None,
        };
        for packet in wire::packets(data) {
            // PEER: the length is within the message. Nothing else was looked at.
            let packet = packet?;
            if packet.len() > self.max_packet {
                return Err(Breach::TooLong { len: packet.len(), max: self.max_packet });
            }
            account.receive(cost(packet.len())).ok_or(Breach::OverWindow)?;
            self.packets += 1;
            if is_gone || batch.as_mut().is_some_and(|batch| write(batch, packet)) {
                account.free(cost(packet.len()));
                continue;
            }
            batch = None;
            #[expect(clippy::cast_possible_truncation, reason = "a packet is shorter than a ring")]
            overflow.put_u32_le(packet.len() as u32);
            overflow.put_slice(packet);
        }
        Ok(())
    }

    /// Takes note of the other side's end.
    pub fn finish(&mut self, packets: u64, end: End) -> Result<(), Breach> {
        if self.end.is_some() {
            return Err(Breach::AfterEnd);
        }
        if packets != self.packets {
            return Err(Breach::WrongTotal { claimed: packets, received: self.packets });
        }
        if end == End::Stopped && !matches!(self.place, Place::Gone) {
            return Err(Breach::OutOfPlace);
        }
        self.end = Some(end);
        Ok(())
    }

    /// Whether there is something for [`drain`] to do.
    pub fn is_to_be_drained(&self) -> bool {
        let is_home = !matches!(self.place, Place::Away);
        is_home && (!self.overflow.is_empty() || self.end.is_some())
    }

    pub fn end(&self) -> Option<End> {
        self.end
    }

    pub fn empty_bytes(&self) -> usize {
        self.empty_bytes
    }

    pub fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    /// Returns why the channel takes no more packets, once.
    pub fn look(&mut self) -> Option<CloseReason> {
        let Place::Here(sender) = &self.place else { return None };
        let reason = sender.close_reason()?;
        self.give_up();
        Some(reason)
    }

    /// Drops what cannot be written any more.
    fn give_up(&mut self) {
        if let Place::Here(sender) = std::mem::replace(&mut self.place, Place::Gone) {
            // Nothing that was sent can be lost by this: the other direction goes on.
            sender.cancel_on_drop(false);
        }
        let mut overflow = std::mem::take(&mut self.overflow).freeze();
        while let Some(packet) = next(&mut overflow) {
            self.account.free(cost(packet.len()));
        }
    }

    /// Lends the sender and the overflow to the drain.
    fn lend(&mut self) -> Option<(Sender, Bytes)> {
        match std::mem::replace(&mut self.place, Place::Away) {
            Place::Here(sender) => Some((sender, self.overflow.split().freeze())),
            other => {
                self.place = other;
                None
            }
        }
    }
}

/// Writes one packet. Returns `false` if there is no room; whether the channel has ended is for
/// [`Inward::look`].
fn write(batch: &mut Batch<'_>, packet: &[u8]) -> bool {
    match batch.try_reserve(packet.len()) {
        Ok(mut grant) => {
            grant.put_slice(packet);
            // An error is the end of the channel.
            let _ = grant.commit();
            true
        }
        Err(TryReserveError::Closed(_)) => true,
        Err(_) => false,
    }
}

/// Takes the next packet from an overflow, which this side has written.
fn next(overflow: &mut Bytes) -> Option<Bytes> {
    let len = overflow.try_get_u32_le().ok()?;
    Some(overflow.split_to(len as usize))
}

/// Writes what lies in the overflow whenever something does, until the other side's end. Returns
/// the end, and the sender if the channel still takes packets.
pub async fn drain(circuit: &Circuit) -> (End, Option<Sender>) {
    loop {
        circuit.wait_for_inward().await;
        let (lent, end) = circuit.with_inward(|inward| (inward.lend(), inward.end()));
        let (mut sender, mut overflow) = match (lent, end) {
            (Some((sender, overflow)), Some(end)) if overflow.is_empty() => {
                return (end, Some(sender));
            }
            (Some(lent), _) => lent,
            (None, Some(end)) => return (end, None),
            (None, None) => continue,
        };
        let mut freed = write_all(circuit, &mut sender, &mut overflow).await;
        while let Some(packet) = next(&mut overflow) {
            freed += cost(packet.len());
        }
        circuit.free(freed, |inward| inward.place = Place::Here(sender));
        circuit.look();
    }
}

/// Writes packets until there are no more, or the channel takes no more. Returns what is to be
/// freed.
async fn write_all(circuit: &Circuit, sender: &mut Sender, overflow: &mut Bytes) -> u64 {
    let mut freed = 0;
    let mut batch = sender.batch();
    while let Some(packet) = next(overflow) {
        if !write(&mut batch, &packet) {
            circuit.free(std::mem::take(&mut freed), |_| {});
            let Ok(mut grant) = batch.reserve(packet.len()).await else {
                return cost(packet.len());
            };
            grant.put_slice(&packet);
            // An error is the end of the channel, and the next call returns it too.
            let _ = grant.commit();
        }
        freed += cost(packet.len());
    }
    freed
}
