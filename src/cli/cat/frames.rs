//! How packets lie in a stream of bytes.

use bytes::{Buf, Bytes, BytesMut};
use clap::ValueEnum;

/// How packets lie in standard input and standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Frames {
    /// A packet is a line, without the newline that ends it
    Lines,
    /// A packet follows its length, which is 4 bytes, little-endian
    Length,
    /// A packet is any piece of a stream of bytes; only the order of the bytes is kept
    Bytes,
}

/// The bytes of a length.
const LENGTH: usize = 4;

impl Frames {
    /// Appends a packet to what goes to standard output.
    pub(crate) fn append(self, packet: &[u8], output: &mut Vec<u8>) {
        if self == Self::Length {
            // A packet has at most a quarter of a ring, and a ring at most 1 GiB.
            let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
            output.extend_from_slice(&len.to_le_bytes());
        }
        output.extend_from_slice(packet);
        if self == Self::Lines {
            output.push(b'\n');
        }
    }
}

/// Splits a stream of bytes into packets.
#[derive(Debug)]
pub(crate) struct Splitter {
    frames: Frames,
    /// The longest packet.
    max: usize,
    /// What was read and not split off yet.
    pending: BytesMut,
    /// How much of it is known to have no newline.
    scanned: usize,
    /// How many packets were split off.
    count: u64,
}

impl Splitter {
    pub(crate) fn new(frames: Frames, max: usize) -> Self {
        Self { frames, max, pending: BytesMut::new(), scanned: 0, count: 0 }
    }

    /// Adds what was read, and appends the packets that are complete.
    ///
    /// # Errors
    /// A packet that is longer than the channel allows.
    pub(crate) fn feed(&mut self, read: &[u8], packets: &mut Vec<Bytes>) -> Result<(), String> {
        self.pending.extend_from_slice(read);
        while let Some(packet) = self.next()? {
            self.count += 1;
            packets.push(packet);
        }
        Ok(())
    }

    /// Whether all that was read was split off.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the last packet, if there is one, at the end of the stream.
    ///
    /// # Errors
    /// The stream ends inside of a packet.
    pub(crate) fn finish(&mut self) -> Result<Option<Bytes>, String> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        match self.frames {
            // The last line needs no newline.
            Frames::Lines => Ok(Some(self.pending.split().freeze())),
            Frames::Length | Frames::Bytes => Err(format!(
                "standard input ends inside of frame {}, {} bytes after its beginning",
                self.count + 1,
                self.pending.len()
            )),
        }
    }

    fn next(&mut self) -> Result<Option<Bytes>, String> {
        match self.frames {
            Frames::Lines => self.next_line(),
            Frames::Length => self.next_frame(),
            Frames::Bytes => {
                let len = self.pending.len().min(self.max);
                Ok((len > 0).then(|| self.pending.split_to(len).freeze()))
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Bytes>, String> {
        let newline = self.pending[self.scanned..].iter().position(|byte| *byte == b'\n');
        let len = newline.map_or(self.pending.len(), |at| self.scanned + at);
        if len > self.max {
            let (line, max) = (self.count + 1, self.max);
            return Err(format!(
                "line {line} of standard input is too long for a packet: at most {max} bytes"
            ));
        }
        if newline.is_none() {
            self.scanned = len;
            return Ok(None);
        }
        self.scanned = 0;
        let line = self.pending.split_to(len).freeze();
        self.pending.advance(1);
        Ok(Some(line))
    }

    fn next_frame(&mut self) -> Result<Option<Bytes>, String> {
        let Some(length) = self.pending.first_chunk::<LENGTH>() else { return Ok(None) };
        let len = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if len > self.max {
            let (frame, max) = (self.count + 1, self.max);
            return Err(format!(
                "frame {frame} of standard input is too long for a packet: {len} bytes, at most \
                 {max}"
            ));
        }
        if self.pending.len() < LENGTH + len {
            return Ok(None);
        }
        self.pending.advance(LENGTH);
        Ok(Some(self.pending.split_to(len).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All packets of `stream`, read in pieces of `piece` bytes.
    fn split(frames: Frames, stream: &[u8], piece: usize) -> Result<Vec<Bytes>, String> {
        let (mut splitter, mut packets) = (Splitter::new(frames, 8), Vec::new());
        for read in stream.chunks(piece) {
            splitter.feed(read, &mut packets)?;
        }
        packets.extend(splitter.finish()?);
        Ok(packets)
    }

    #[test]
    fn packets_are_the_same_however_the_stream_is_read() {
        let lines = b"one\n\ntwo\n8 bytes.\nlast";
        let length = b"\x03\0\0\0one\0\0\0\0\x08\0\0\0\n bytes\n";
        for piece in 1..=24 {
            let packets = split(Frames::Lines, lines, piece).unwrap();
            assert_eq!(packets, ["one", "", "two", "8 bytes.", "last"], "{piece}");
            let packets = split(Frames::Length, length, piece).unwrap();
            assert_eq!(packets, ["one", "", "\n bytes\n"], "{piece}");
            let packets = split(Frames::Bytes, lines, piece).unwrap();
            assert_eq!(packets.concat(), lines, "{piece}");
            assert!(packets.iter().all(|packet| (1..=8).contains(&packet.len())));
        }
    }

    #[test]
    fn what_is_too_long_or_cut_off_is_an_error() {
        for piece in [1, 5, 100] {
            let error = split(Frames::Lines, b"a\n9 bytes..\n", piece).unwrap_err();
            assert!(error.starts_with("line 2 ") && error.contains("at most 8"), "{error}");
            let error = split(Frames::Lines, b"no end, and too long", piece).unwrap_err();
            assert!(error.starts_with("line 1 "), "{error}");
            let error = split(Frames::Length, b"\0\0\0\0\x09\0\0\0abc", piece).unwrap_err();
            assert!(error.starts_with("frame 2 ") && error.contains("9 bytes"), "{error}");
            for stream in [&b"\x02\0"[..], b"\x02\0\0\0a"] {
                let error = split(Frames::Length, stream, piece).unwrap_err();
                assert!(error.contains("inside of frame 1"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_appended_is_split_again() {
        let packets = [Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"bcd")];
        for frames in [Frames::Lines, Frames::Length] {
            let mut stream = Vec::new();
            packets.iter().for_each(|packet| frames.append(packet, &mut stream));
            assert_eq!(split(frames, &stream, 3).unwrap(), packets);
        }
    }
}
