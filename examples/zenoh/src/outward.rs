//! From the channel to the network.

use std::pin::pin;

use futures::future::{Either, select};
use wakering::{CloseReason, Packet, Receiver};

use crate::circuit::Circuit;
use crate::credit::cost;
use crate::wire::{self, Body, Cut, End, HEADER, Header, PACKET_HEADER};

/// A message takes packets up to this length in all, so that it fits into one batch of zenoh's and
/// is not fragmented. A packet that is longer by itself is alone in its message.
pub const MESSAGE_BYTES: usize = 60 * 1024;

/// Sends what the channel receives, until the channel or the other side ends the direction, or the
/// circuit is cut. After a death it waits until the other side takes no more.
pub async fn pump(circuit: &Circuit, mut receiver: Receiver) -> Result<(), Cut> {
    let sent = send_all(circuit, &mut receiver).await;
    // The channel's other side learns that it is cancelled, before it learns that nobody receives.
    let (packets, end) = sent.inspect_err(|cut| circuit.cut(*cut))?;
    drop(receiver);
    if end == End::Died {
        circuit.note_death();
    }
    circuit.say(&Body::Fin { packets, end })?;
    if end == End::Died {
        // The circuit stays, so that the time which ends it does not begin anew at the other end.
        circuit.stopped().await;
    }
    Ok(())
}

/// Returns how many packets were sent, and why there are no more.
async fn send_all(circuit: &Circuit, receiver: &mut Receiver) -> Result<(u64, End), Cut> {
    let mut packets = 0;
    loop {
        match next(circuit, receiver).await? {
            Next::Message(message) => {
                packets += message.packets;
                circuit.say_data(message)?;
            }
            Next::End(end) => return Ok((packets, end)),
        }
    }
}

enum Next {
    Message(Message),
    End(End),
}

/// A data message whose header is still to be written.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
    packets: u64,
    /// What they cost.
    pub cost: u64,
}

impl Message {
    fn new() -> Self {
        Self { bytes: Vec::new(), packets: 0, cost: 0 }
    }

    /// Writes the header, and returns the whole.
    pub fn with_header(self, header: &Header) -> Vec<u8> {
        let mut bytes = self.bytes;
        bytes[..HEADER].copy_from_slice(&wire::encode_header(header, &Body::Data(&[])));
        bytes
    }

    fn append(&mut self, packet: Packet<'_>) -> Result<(), Cut> {
        let len = packet.len();
        let header = u32::try_from(len).map_err(|_| Cut::TooLong)?;
        self.bytes.extend_from_slice(&header.to_le_bytes());
        let at = self.bytes.len();
        self.bytes.resize(at + len, 0);
        packet.copy_to_slice(&mut self.bytes[at..]);
        self.packets += 1;
        self.cost += cost(len);
        Ok(())
    }
}

/// Waits for packets, and takes as many as are there and allowed.
async fn next(circuit: &Circuit, receiver: &mut Receiver) -> Result<Next, Cut> {
    let longest = circuit.longest_packet();
    let room = {
        let room = pin!(circuit.wait_for_room(cost(longest.min(receiver.max_packet()))));
        // A channel that is cancelled does not wait until its packets can be sent.
        match select(room, pin!(receiver.closed())).await {
            Either::Left((room, _)) => room,
            Either::Right((reason, _)) if is_over_at_once(reason) => return Err(Cut::Cancelled),
            Either::Right((reason, room)) => {
                if reason == CloseReason::PeerDied {
                    circuit.note_death();
                }
                room.await
            }
        }
    };
    let Some(room) = room else { return Ok(Next::End(End::Stopped)) };
    let mut message = Message::new();
    {
        let (receiving, stopped) = (pin!(receiver.recv_ref()), pin!(circuit.stopped()));
        let Either::Left((first, _)) = select(receiving, stopped).await else {
            return Ok(Next::End(End::Stopped));
        };
        if let Some(packet) = first {
            check_length(packet.len(), longest)?;
            message.bytes.reserve(HEADER + PACKET_HEADER + packet.len());
            message.bytes.resize(HEADER, 0);
            message.append(packet)?;
        }
    }
    if message.packets == 0 {
        return end_of(receiver).map(Next::End);
    }
    while let Some(len) = receiver.readable() {
        let is_full = message.bytes.len() + PACKET_HEADER + len > MESSAGE_BYTES;
        if is_full || len > longest || message.cost + cost(len) > room {
            break;
        }
        if message.packets == 1 {
            message.bytes.reserve(MESSAGE_BYTES - message.bytes.len());
        }
        match receiver.try_recv_ref() {
            Ok(packet) => message.append(packet)?,
            Err(_) => break,
        }
    }
    Ok(Next::Message(message))
}

fn check_length(len: usize, longest: usize) -> Result<(), Cut> {
    if len > longest {
        tracing::warn!("a packet of {len} bytes, at most {longest} are taken at the other end");
        return Err(Cut::TooLong);
    }
    Ok(())
}

/// Returns how a channel ended that has no more packets.
fn end_of(receiver: &Receiver) -> Result<End, Cut> {
    match receiver.finished() {
        Some(Ok(())) => Ok(End::Complete),
        Some(Err(CloseReason::PeerDied)) => Ok(End::Died),
        _ => Err(Cut::Cancelled),
    }
}

/// Whether packets that are still in the ring of a channel that has ended so are lost.
pub fn is_over_at_once(reason: CloseReason) -> bool {
    !matches!(reason, CloseReason::Local | CloseReason::Peer | CloseReason::PeerDied)
}
