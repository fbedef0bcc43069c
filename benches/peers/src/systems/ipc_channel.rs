//! ipc-channel, with its channels of bytes.

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

use super::{BOTH, Family, System, Waits};
use crate::Result;
use crate::cell::Side;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::Port;
use crate::stage::Stage;

pub(crate) const SYSTEMS: &[System] = &[System {
    name: "ipc-channel",
    family: Family::Rival,
    waits: Waits::Sleeping,
    about: "bytes_channel, send and recv",
    measures: BOTH,
    sizes: &[],
    perform,
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
    stage.run(Channel { tx, rx })
}

struct Channel {
    tx: IpcBytesSender,
    rx: IpcBytesReceiver,
}

impl Port for Channel {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        Ok(self.tx.send(source.packet())?)
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        sink.take(&self.rx.recv()?);
        Ok(())
    }
}
