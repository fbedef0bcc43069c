//! A Unix stream socket under smol, with length-delimited frames: what an async program would use
//! without thinking.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use async_io::Async;
use asynchronous_codec::{Framed, LengthCodec};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};

use super::{BOTH, Family, System, Waits};
use crate::Result;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::AsyncPort;
use crate::stage::Stage;

pub(crate) const SYSTEMS: &[System] = &[System {
    name: "Unix stream, smol",
    family: Family::Rival,
    waits: Waits::Sleeping,
    about: "Framed with a LengthCodec; streams feed 64 packets and flush",
    measures: BOTH,
    sizes: &[],
    perform,
}];

/// Packets of a stream between two flushes.
const FED: usize = 64;

fn perform(stage: &mut Stage) -> Result<Outcome> {
    let [socket] = stage.part(|| {
        let (mine, theirs) = UnixStream::pair()?;
        Ok(([OwnedFd::from(mine)], [OwnedFd::from(theirs)]))
    })?;
    let socket = Async::new(UnixStream::from(socket))?;
    let port = Socket { framed: Framed::new(socket, LengthCodec), memory: Bytes::new() };
    smol::block_on(stage.run_async(port))
}

struct Socket {
    framed: Framed<Async<UnixStream>, LengthCodec>,
    memory: Bytes,
}

impl AsyncPort for Socket {
    async fn send(&mut self, source: &mut Source) -> Result<()> {
        source.refill(&mut self.memory);
        Ok(self.framed.send(self.memory.clone()).await?)
    }

    async fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        sink.take(&self.framed.next().await.ok_or("the other side hung up")??);
        Ok(())
    }

    async fn send_some(&mut self, source: &mut Source) -> Result<()> {
        for _ in 0..FED {
            source.refill(&mut self.memory);
            self.framed.feed(self.memory.clone()).await?;
        }
        Ok(self.framed.flush().await?)
    }
}
