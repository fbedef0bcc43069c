//! iceoryx2: slices published to one subscriber, polled for or announced by an event.

use std::hint::spin_loop;
use std::os::unix::process::parent_id;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    Alignment, BackpressureStrategy, Config, FileName, LogLevel, Node, NodeBuilder, Path,
    SemanticString, ServiceName, ipc, set_log_level,
};

use crate::Result;
use crate::loops::Loops;
use crate::outcome::Outcome;
use crate::packet::{Sink, Source};
use crate::row::Side;
use crate::stage::{self, Stage};
use crate::system::{System, Waits};
use crate::trips::{Echo, Trips};

pub(crate) const SYSTEMS: &[System] = &[
    System {
        name: "iceoryx2, polling",
        about: "loan_slice_uninit, send; receive, again and again",
        perform: polling,
        ..System::RIVAL
    },
    System {
        name: "iceoryx2, event",
        waits: Waits::Sleeping,
        about: "the same, notify after each packet, blocking_wait before the next",
        perform: event,
        ..System::RIVAL
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
    #[inline(always)]
    fn publish(&self, packet: &[u8]) -> Result<()> {
        let sample = self.publisher.loan_slice_uninit(packet.len())?;
        sample.write_from_slice(packet).send()?;
        Ok(())
    }

    /// Waits for a packet by looking again and again.
    #[inline(always)]
    fn take<T>(&self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        loop {
            match self.subscriber.receive()? {
                Some(sample) => return Ok(look(sample.payload())),
                None => spin_loop(),
            }
        }
    }
}

fn polling(stage: &mut Stage) -> Result<Outcome> {
    let node = node(stage)?;
    let packets = open(stage, &node)?;
    pollster::block_on(stage.run(packets))
}

impl<const N: usize> Loops<N> for Packets {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.publish(packet)?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while self.take(|packet| sink.take(packet))? {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.publish(packet)?;
            self.take(|answer| trips.take(answer))?;
        }
        self.publish(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while self.take(|packet| echo.take(packet))? {
            self.publish(echo.answer())?;
        }
        Ok(())
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
    pollster::block_on(stage.run(Events { packets, notifier, listener }))
}

struct Events {
    packets: Packets,
    notifier: Notifier<Service>,
    listener: Listener<Service>,
}

impl Events {
    fn publish(&self, packet: &[u8]) -> Result<()> {
        self.packets.publish(packet)?;
        self.notifier.notify()?;
        Ok(())
    }

    fn take<T>(&self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        loop {
            match self.packets.subscriber.receive()? {
                Some(sample) => return Ok(look(sample.payload())),
                None => self.listener.blocking_wait(|_| {})?,
            };
        }
    }
}

impl<const N: usize> Loops<N> for Events {
    async fn send(&mut self, source: &mut Source<N>) -> Result<()> {
        while let Some(packet) = source.next() {
            self.publish(packet)?;
        }
        Ok(())
    }

    async fn receive(&mut self, sink: &mut Sink<N>) -> Result<()> {
        while self.take(|packet| sink.take(packet))? {}
        Ok(())
    }

    async fn ask(&mut self, trips: &mut Trips<N>) -> Result<()> {
        while let Some(packet) = trips.next() {
            self.publish(packet)?;
            self.take(|answer| trips.take(answer))?;
        }
        self.publish(trips.last())
    }

    async fn answer(&mut self, echo: &mut Echo<N>) -> Result<()> {
        while self.take(|packet| echo.take(packet))? {
            self.publish(echo.answer())?;
        }
        Ok(())
    }
}
