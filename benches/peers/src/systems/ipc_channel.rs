//! ipc-channel, with its channels of bytes.

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::row::Side;
use crate::stage::Stage;
use crate::system::{System, Waits};
use crate::trips::{Echo, Trips};

pub(crate) const SYSTEMS: &[System] = &[System {
    name: "ipc-channel",
    waits: Waits::Sleeping,
    about: "bytes_channel, send and recv",
    perform,
    ..System::RIVAL
}];

type Ends = (IpcBytesSender, IpcBytesReceiver);

fn perform(stage: &mut Stage) -> Result<Outcome> {
    let (tx, rx) = match stage.side() {
        Side::A => {
            let (server, name) = IpcOneShotServer::<Ends>::new()?;
            stage.link.tell(&name)?;
            server.accept()?.1
        }
        Side::B => {
            let (tx, their_rx) = ipc::bytes_channel()?;
            let (their_tx, rx) = ipc::bytes_channel()?;
            let name = stage.link.hear()?;
            IpcSender::<Ends>::connect(name)?.send((their_tx, their_rx))?;
            (tx, rx)
        }
    };
    pollster::block_on(stage.run(Channel { tx, rx }))
}

struct Channel {
    tx: IpcBytesSender,
    rx: IpcBytesReceiver,
}

impl<const N: usize> Loops<N> for Channel {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.tx.send(packet)?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while sink.take(&self.rx.recv()?) {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.tx.send(packet)?;
            trips.take(&self.rx.recv()?);
        }
        Ok(self.tx.send(trips.last())?)
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while echo.take(&self.rx.recv()?) {
            self.tx.send(echo.answer())?;
        }
        Ok(())
    }
}
