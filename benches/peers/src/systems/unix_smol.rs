//! A Unix stream socket under smol, with length-delimited frames: what an async program would use
//! without thinking.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use async_io::Async;
use asynchronous_codec::{Framed, LengthCodec};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};

use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::stage::Stage;
use crate::system::{System, Waits};
use crate::trips::{Echo, Trips};

pub(crate) const SYSTEMS: &[System] = &[System {
    name: "Unix stream, smol",
    waits: Waits::Sleeping,
    about: "Framed with a LengthCodec; streams feed 64 packets and flush",
    perform,
    ..System::RIVAL
}];

/// Packets of a stream between two flushes.
const FED: usize = 64;

fn perform(stage: &mut Stage) -> Result<Outcome> {
    let [socket] = stage.part(|| {
        let (mine, theirs) = UnixStream::pair()?;
        Ok(([OwnedFd::from(mine)], [OwnedFd::from(theirs)]))
    })?;
    let socket = Async::new(UnixStream::from(socket))?;
    smol::block_on(stage.run(Socket { framed: Framed::new(socket, LengthCodec) }))
}

struct Socket {
    framed: Framed<Async<UnixStream>, LengthCodec>,
}

impl Socket {
    async fn next(&mut self) -> Result<Bytes> {
        Ok(self.framed.next().await.ok_or("the other side hung up")??)
    }
}

impl<const N: usize> Loops<N> for Socket {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        let mut fed = 0;
        while let Some(packet) = source.next() {
            self.framed.feed(Bytes::copy_from_slice(packet)).await?;
            fed += 1;
            if fed == FED {
                self.framed.flush().await?;
                fed = 0;
            }
        }
        Ok(self.framed.flush().await?)
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.next().await?) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.framed.send(Bytes::copy_from_slice(packet)).await?;
            trips.take(&self.next().await?);
        }
        Ok(self.framed.send(Bytes::copy_from_slice(trips.last())).await?)
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.next().await?) {
            self.framed.send(Bytes::copy_from_slice(echo.answer())).await?;
        }
        Ok(())
    }
}
