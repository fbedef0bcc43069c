//! What the kernel offers: a socket that keeps packets apart, and pipes.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::stage::Stage;
use crate::system::{System, Waits};
use crate::trips::{Echo, Trips};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "Unix seqpacket",
        waits: Waits::Sleeping,
        about: "send and recv on a socket pair",
        perform: seqpacket,
        ..System::RIVAL
    },
    System {
        name: "pipe",
        waits: Waits::Sleeping,
        about: "frames with their length, one write each, buffered reads; 1 MiB pipes",
        perform: pipes,
        ..System::RIVAL
    },
];

fn seqpacket(stage: &mut Stage) -> Result<Outcome> {
    let [socket] = stage.part(|| {
        let (mine, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok(([mine], [theirs]))
    })?;
    let buffer = vec![0; stage.bytes()];
    pollster::block_on(stage.run(Seqpacket { socket, buffer }))
}

struct Seqpacket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Seqpacket {
    fn put(&self, packet: &[u8]) -> Result<()> {
        send(&self.socket, packet, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn take(&mut self) -> Result<&[u8]> {
        let (len, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
        if len == 0 {
            return Err("the other side hung up".into());
        }
        Ok(&self.buffer[..len])
    }
}

impl<const N: usize> Loops<N> for Seqpacket {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.put(packet)?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(self.take()?) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.put(packet)?;
            trips.take(self.take()?);
        }
        self.put(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(self.take()?) {
            self.put(echo.answer())?;
        }
        Ok(())
    }
}

/// As much as an ordinary user may ask for.
const PIPE_BYTES: usize = 1 << 20;
/// What is read at once, at most.
const READ_BYTES: usize = 256 << 10;

type Length = u32;
const PREFIX: usize = size_of::<Length>();

fn pipes(stage: &mut Stage) -> Result<Outcome> {
    let [reader, writer] = stage.part(|| {
        let (their_reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (reader, their_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // Refused where the user has too many pages in pipes already; the default does, too.
        let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
        let _ = fcntl_setpipe_size(&reader, PIPE_BYTES);
        Ok(([reader, writer], [their_reader, their_writer]))
    })?;
    let bytes = stage.bytes();
    pollster::block_on(stage.run(Pipes {
        reader: BufReader::with_capacity(READ_BYTES, File::from(reader)),
        writer: File::from(writer),
        frame: Vec::with_capacity(PREFIX + bytes),
        buffer: vec![0; bytes],
    }))
}

struct Pipes {
    reader: BufReader<File>,
    writer: File,
    frame: Vec<u8>,
    buffer: Vec<u8>,
}

impl Pipes {
    fn put(&mut self, packet: &[u8]) -> Result<()> {
        self.frame.clear();
        self.frame.extend_from_slice(&Length::try_from(packet.len())?.to_le_bytes());
        self.frame.extend_from_slice(packet);
        Ok(self.writer.write_all(&self.frame)?)
    }

    fn take(&mut self) -> Result<&[u8]> {
        let mut prefix = [0; PREFIX];
        self.reader.read_exact(&mut prefix)?;
        let len = usize::try_from(Length::from_le_bytes(prefix))?;
        let packet = self.buffer.get_mut(..len).ok_or("a frame that is too long")?;
        self.reader.read_exact(packet)?;
        Ok(packet)
    }
}

impl<const N: usize> Loops<N> for Pipes {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.put(packet)?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(self.take()?) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.put(packet)?;
            trips.take(self.take()?);
        }
        self.put(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(self.take()?) {
            self.put(echo.answer())?;
        }
        Ok(())
    }
}
