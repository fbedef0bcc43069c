//! The messages that two bridges exchange. README.md has the protocol in words.
//!
//! All numbers are little-endian. A message that has any other form than these is [`Malformed`].

use std::fmt;

/// The version of the protocol: the first byte of each message.
const VERSION: u8 = 1;

/// Bytes before the body: version, kind, two zeros, circuit, number, freed.
pub const HEADER: usize = 4 + 16 + 8 + 8;

/// Bytes before each packet in a [`Body::Data`]: its length.
pub const PACKET_HEADER: usize = 4;

/// A number that names one circuit, the channel of one application. Import draws it at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CircuitId(pub u128);

impl fmt::Display for CircuitId {
    /// The first digits suffice to tell circuits apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// The name of a bridge in the network: the id of its zenoh session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BridgeId(pub u128);

impl fmt::Display for BridgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What each message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub circuit: CircuitId,
    /// How many messages of this circuit the sender sent before this one. 0 for
    /// [`Body::Open`] and [`Body::Accept`].
    pub number: u64,
    /// The cost of all packets of the other direction for which the sender has no more to keep
    /// room: see [`credit`](crate::credit).
    pub freed: u64,
}

/// What a side can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The cost of the packets that may be under way to this side at a time.
    pub window: u64,
    /// The length of the longest packet that its channel takes.
    pub max_packet: u64,
}

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The application or engine closed it, and all its packets were sent before this.
    Complete = 0,
    /// The process died. What it had published was sent before this, but it may have meant to send
    /// more.
    Died = 1,
    /// The receiving side has asked for it by [`Body::Stop`].
    Stopped = 2,
}

/// Why a circuit was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Cut {
    #[error("its channel was cancelled")]
    Cancelled = 0,
    #[error("the bridge at the other end is gone")]
    BridgeGone = 1,
    #[error("nothing was heard of the other end")]
    Silence = 2,
    #[error("messages were lost on the way")]
    Gap = 3,
    #[error("the other end broke the protocol")]
    Breach = 4,
    #[error("the engine could not be reached")]
    NoEngine = 5,
    #[error("there are too many circuits")]
    TooMany = 6,
    #[error("a packet is longer than the channel at the other end takes")]
    TooLong = 7,
    #[error("the peer at the other end died")]
    PeerDied = 8,
    #[error("zenoh could not send")]
    NotSent = 9,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// Import asks for a channel to the engine.
    Open { from: BridgeId, offer: Offer },
    /// Export has one.
    Accept(Offer),
    /// Packets, each with its length before it: see [`packets`].
    Data(&'a [u8]),
    /// No packet follows in this direction.
    Fin { packets: u64, end: End },
    /// The sender of this takes no more packets.
    Stop,
    /// The circuit is over, in both directions.
    Cancel(Cut),
    /// The header is all.
    Beat,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a message of {0} bytes, which is too short for its kind")]
    Short(usize),
    #[error("{0} bytes too many")]
    Long(usize),
    #[error("version {0}, not {VERSION}")]
    Version(u8),
    #[error("kind {0}, which does not exist")]
    Kind(u8),
    #[error("reserved bytes that are not zero")]
    Reserved,
    #[error("code {0}, which does not exist")]
    Code(u8),
    #[error("data without a packet")]
    NoPacket,
    #[error("a packet of {claimed} bytes where {left} are left")]
    PacketOverEnd { claimed: u32, left: usize },
}

impl Body<'_> {
    fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => 1,
            Self::Accept(_) => 2,
            Self::Data(_) => 3,
            Self::Fin { .. } => 4,
            Self::Stop => 5,
            Self::Cancel(_) => 6,
            Self::Beat => 7,
        }
    }
}

/// Returns a message.
pub fn encode(header: &Header, body: &Body<'_>) -> Vec<u8> {
    let mut message = encode_header(header, body).to_vec();
    match *body {
        Body::Open { from, offer } => {
            message.extend_from_slice(&from.0.to_le_bytes());
            encode_offer(offer, &mut message);
        }
        Body::Accept(offer) => encode_offer(offer, &mut message),
        Body::Data(packets) => message.extend_from_slice(packets),
        Body::Fin { packets, end } => {
            message.extend_from_slice(&packets.to_le_bytes());
            message.push(end as u8);
        }
        Body::Cancel(cut) => message.push(cut as u8),
        Body::Stop | Body::Beat => {}
    }
    message
}

/// Returns the first bytes of a message, for data that is written after them in place.
pub fn encode_header(header: &Header, body: &Body<'_>) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..2].copy_from_slice(&[VERSION, body.kind()]);
    bytes[4..20].copy_from_slice(&header.circuit.0.to_le_bytes());
    bytes[20..28].copy_from_slice(&header.number.to_le_bytes());
    bytes[28..].copy_from_slice(&header.freed.to_le_bytes());
    bytes
}

fn encode_offer(offer: Offer, to: &mut Vec<u8>) {
    to.extend_from_slice(&offer.window.to_le_bytes());
    to.extend_from_slice(&offer.max_packet.to_le_bytes());
}

/// Takes a message apart. The packets of a [`Body::Data`] are not looked at.
pub fn decode(message: &[u8]) -> Result<(Header, Body<'_>), Malformed> {
    let mut fields = Fields { rest: message, whole: message.len() };
    let [version, kind, reserved @ ..]: [u8; 4] = fields.take()?;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    if reserved != [0, 0] {
        return Err(Malformed::Reserved);
    }
    let header = Header {
        circuit: CircuitId(u128::from_le_bytes(fields.take()?)),
        number: fields.number()?,
        freed: fields.number()?,
    };
    let body = match kind {
        1 => Body::Open {
            from: BridgeId(u128::from_le_bytes(fields.take()?)),
            offer: fields.offer()?,
        },
        2 => Body::Accept(fields.offer()?),
        3 => Body::Data(std::mem::take(&mut fields.rest)),
        4 => Body::Fin { packets: fields.number()?, end: end(fields.byte()?)? },
        5 => Body::Stop,
        6 => Body::Cancel(cut(fields.byte()?)?),
        7 => Body::Beat,
        kind => return Err(Malformed::Kind(kind)),
    };
    match fields.rest.len() {
        0 => Ok((header, body)),
        left => Err(Malformed::Long(left)),
    }
}

fn end(code: u8) -> Result<End, Malformed> {
    const ENDS: [End; 3] = [End::Complete, End::Died, End::Stopped];
    ENDS.get(usize::from(code)).copied().ok_or(Malformed::Code(code))
}

fn cut(code: u8) -> Result<Cut, Malformed> {
    const CUTS: [Cut; 10] = [
        Cut::Cancelled,
        Cut::BridgeGone,
        Cut::Silence,
        Cut::Gap,
        Cut::Breach,
        Cut::NoEngine,
        Cut::TooMany,
        Cut::TooLong,
        Cut::PeerDied,
        Cut::NotSent,
    ];
    CUTS.get(usize::from(code)).copied().ok_or(Malformed::Code(code))
}

struct Fields<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short(self.whole))?;
        self.rest = rest;
        Ok(*field)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    fn offer(&mut self) -> Result<Offer, Malformed> {
        Ok(Offer { window: self.number()?, max_packet: self.number()? })
    }
}

/// The packets of a [`Body::Data`], up to the first error. There is at least one, or an error.
pub fn packets(data: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut rest = Some(data);
    let mut is_first = true;
    std::iter::from_fn(move || {
        let data = rest.take()?;
        let is_first = std::mem::take(&mut is_first);
        if data.is_empty() {
            return is_first.then_some(Err(Malformed::NoPacket));
        }
        let Some((length, data)) = data.split_first_chunk() else {
            return Some(Err(Malformed::Short(data.len())));
        };
        let claimed = u32::from_le_bytes(*length);
        let packet = usize::try_from(claimed).ok().and_then(|len| data.split_at_checked(len));
        let Some((packet, after)) = packet else {
            return Some(Err(Malformed::PacketOverEnd { claimed, left: data.len() }));
        };
        rest = Some(after);
        Some(Ok(packet))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_OF_ALL: Header =
        Header { circuit: CircuitId(u128::MAX - 5), number: 1 << 40, freed: u64::MAX };

    fn bodies() -> Vec<Body<'static>> {
        let offer = Offer { window: 4096, max_packet: 1016 };
        let ends = [End::Complete, End::Died, End::Stopped];
        let cuts = (0..=u8::MAX).map_while(|code| cut(code).ok()).map(Body::Cancel);
        [Body::Open { from: BridgeId(7), offer }, Body::Accept(offer), Body::Data(b"\0\0\0\0")]
            .into_iter()
            .chain(ends.map(|end| Body::Fin { packets: 9, end }))
            .chain([Body::Stop, Body::Beat])
            .chain(cuts)
            .collect()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(bodies().len(), 3 + 3 + 2 + 10);
        for body in bodies() {
            let message = encode(&HEADER_OF_ALL, &body);
            assert_eq!(decode(&message), Ok((HEADER_OF_ALL, body)));
        }
    }

    #[test]
    fn a_message_of_another_length_is_malformed() {
        for body in bodies() {
            let message = encode(&HEADER_OF_ALL, &body);
            let is_data = matches!(body, Body::Data(_));
            for len in 0..if is_data { HEADER } else { message.len() } {
                assert_eq!(decode(&message[..len]), Err(Malformed::Short(len)));
            }
            if !is_data {
                let longer = [&message[..], &[0]].concat();
                assert_eq!(decode(&longer), Err(Malformed::Long(1)));
            }
        }
    }

    #[test]
    fn codes_that_do_not_exist_are_malformed() {
        let message = encode(&HEADER_OF_ALL, &Body::Beat);
        let with = |at: usize, byte| {
            let mut message = message.clone();
            message[at] = byte;
            message
        };
        assert_eq!(decode(&with(0, 2)), Err(Malformed::Version(2)));
        assert_eq!(decode(&with(1, 0)), Err(Malformed::Kind(0)));
        assert_eq!(decode(&with(1, 8)), Err(Malformed::Kind(8)));
        assert_eq!(decode(&with(2, 1)), Err(Malformed::Reserved));
        assert_eq!((end(3), cut(10)), (Err(Malformed::Code(3)), Err(Malformed::Code(10))));
    }

    #[test]
    fn packets_end_at_the_first_that_does_not_fit() {
        let all = |data| packets(data).collect::<Vec<_>>();
        assert_eq!(all(b""), [Err(Malformed::NoPacket)]);
        assert_eq!(all(b"\0\0\0\0"), [Ok(&b""[..])]);
        assert_eq!(all(b"\x02\0\0\0ab\x01\0\0\0c"), [Ok(&b"ab"[..]), Ok(b"c")]);
        assert_eq!(all(b"\x01\0\0\0a\x01\0"), [Ok(&b"a"[..]), Err(Malformed::Short(2))]);
        let over = Malformed::PacketOverEnd { claimed: u32::MAX, left: 1 };
        assert_eq!(all(b"\xff\xff\xff\xffa"), [Err(over)]);
    }
}
