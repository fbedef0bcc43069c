//! What a sender needs room for: packets, or room to write in.

use bytes::Bytes;

/// What a sender needs room for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// Packets that are sent in order.
    Packets(&'a [Bytes]),
    /// Room for a packet of this length, which is to be written in place. It counts as one packet,
    /// which counts as sent as soon as there is room; the ring does not change.
    Room(usize),
}

impl<'a> Payload<'a> {
    /// Returns the number of packets.
    #[inline]
    pub(super) fn count(self) -> usize {
        match self {
            Self::Packets(packets) => packets.len(),
            Self::Room(_) => 1,
        }
    }

    /// Returns the length of the packet at index `packet`.
    #[inline]
    pub(super) fn len_of(self, packet: usize) -> usize {
        match self {
            Self::Packets(packets) => packets.get(packet).map_or(0, Bytes::len),
            Self::Room(len) => len,
        }
    }

    /// Returns the length of the first packet that is longer than `max`.
    #[inline]
    pub(super) fn longer_than(self, max: usize) -> Option<usize> {
        (0..self.count()).map(|packet| self.len_of(packet)).find(|len| *len > max)
    }
}

/// What a future owns of its payload.
pub(crate) trait AsPayload {
    fn as_payload(&self) -> Payload<'_>;
}

impl<P: AsRef<[Bytes]>> AsPayload for P {
    #[inline]
    fn as_payload(&self) -> Payload<'_> {
        Payload::Packets(self.as_ref())
    }
}

/// Room for a packet of this length.
#[derive(Debug)]
pub(crate) struct Reserve(pub(crate) usize);

impl AsPayload for Reserve {
    #[inline]
    fn as_payload(&self) -> Payload<'_> {
        Payload::Room(self.0)
    }
}
