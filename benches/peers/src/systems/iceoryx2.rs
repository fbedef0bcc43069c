//! iceoryx2: slices published to one subscriber, polled for or announced by an event.

use std::os::unix::process::parent_id;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    Alignment, BackpressureStrategy, Config, FileName, LogLevel, Node, NodeBuilder, Path,
    SemanticString, ServiceName, ipc, set_log_level,
};

use super::{BOTH, Family, System, Waits, spin};
use crate::Result;
use crate::cell::Side;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::port::Port;
use crate::stage::{self, Stage};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "iceoryx2, polling",
        family: Family::Rival,
        waits: Waits::Spinning,
        about: "loan_slice_uninit, send; receive, again and again",
        measures: BOTH,
        sizes: &[],
        perform: polling,
    },
    System {
        name: "iceoryx2, event",
        family: Family::Rival,
        waits: Waits::Sleeping,
        about: "the same, notify after each packet, blocking_wait before the next",
        measures: BOTH,
        sizes: &[],
        perform: event,
    },
];

/// Bytes of packets on the way, as with the others, but no more packets than this.
const RING: usize = 4 << 20;
const MAX_PACKETS: usize = 4096;

type Service = ipc::Service;

fn node(stage: &Stage) -> Result<Node<Service>> {
    set_log_level(LogLevel::Fatal);
    let mut config = Config::default();
    config.global.set_root_path(&Path::new(stage.scratch().as_bytes())?);
    config.global.prefix = FileName::new(stage::prefix(parent_id()).as_bytes())?;
    Ok(NodeBuilder::new().config(&config).create::<Service>()?)
}

/// The names of what this side sends on and receives from.
fn names(stage: &Stage, kind: &str) -> Result<[ServiceName; 2]> {
    let name = |to: &str| ServiceName::new(&format!("{kind}-to-{to}"));
    let (a, b) = (name("a")?, name("b")?);
    Ok(if stage.side() == Side::A { [b, a] } else { [a, b] })
}

fn open(stage: &mut Stage, node: &Node<Service>) -> Result<Packets> {
    let bytes = stage.bytes();
    let packets = (RING / bytes).clamp(2, MAX_PACKETS);
    let [to, from] = names(stage, "packets")?;
    let service = |name| {
        node.service_builder(name)
            .publish_subscribe::<[u8]>()
            .payload_alignment(Alignment::new(8).expect("a power of two"))
            .max_publishers(1)
            .max_subscribers(1)
            .subscriber_max_buffer_size(packets)
            .enable_safe_overflow(false)
            .history_size(0)
            .open_or_create()
    };
    let publisher = service(&to)?
        .publisher_builder()
        .initial_max_slice_len(bytes)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    let subscriber = service(&from)?.subscriber_builder().buffer_size(packets).create()?;
    // Both must be there before either connects.
    stage.link.meet()?;
    Ok(Packets { publisher, subscriber })
}

struct Packets {
    publisher: Publisher<Service, [u8], ()>,
    subscriber: Subscriber<Service, [u8], ()>,
}

impl Packets {
    #[inline]
    fn publish(&mut self, source: &mut Source) -> Result<()> {
        let packet = source.packet();
        let sample = self.publisher.loan_slice_uninit(packet.len())?;
        sample.write_from_slice(packet).send()?;
        Ok(())
    }

    #[inline]
    fn try_take(&mut self, sink: &mut Sink) -> Result<Option<()>> {
        let sample = self.subscriber.receive()?;
        Ok(sample.map(|sample| sink.take(sample.payload())))
    }
}

fn polling(stage: &mut Stage) -> Result<Outcome> {
    let node = node(stage)?;
    let packets = open(stage, &node)?;
    stage.run(packets)
}

impl Port for Packets {
    #[inline]
    fn send(&mut self, source: &mut Source) -> Result<()> {
        self.publish(source)
    }

    #[inline]
    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        spin(|| self.try_take(sink))
    }
}

fn event(stage: &mut Stage) -> Result<Outcome> {
    let node = node(stage)?;
    let [to, from] = names(stage, "events")?;
    let notifier =
        node.service_builder(&to).event().open_or_create()?.notifier_builder().create()?;
    let listener =
        node.service_builder(&from).event().open_or_create()?.listener_builder().create()?;
    stage.link.meet()?;
    let packets = open(stage, &node)?;
    stage.run(Events { packets, notifier, listener })
}

struct Events {
    packets: Packets,
    notifier: Notifier<Service>,
    listener: Listener<Service>,
}

impl Port for Events {
    fn send(&mut self, source: &mut Source) -> Result<()> {
        self.packets.publish(source)?;
        self.notifier.notify()?;
        Ok(())
    }

    fn recv(&mut self, sink: &mut Sink) -> Result<()> {
        while self.packets.try_take(sink)?.is_none() {
            self.listener.blocking_wait(|_| {})?;
        }
        Ok(())
    }
}
