//! An engine or an application, which does what the test tells it.

use std::time::{Duration, Instant};

use futures::SinkExt;
use futures::executor::block_on;
use wakering::{Endpoint, Receiver, Sender, ShmError, SpscHandle, SpscListener, TrySendError};

use crate::packets::Packets;
use crate::process::{arguments, listen, say};

/// How long a party that fills its channel waits for more room.
const CALM: Duration = Duration::from_secs(1);

/// The length of packets that fill a channel.
pub const FILLING: usize = 1000;

/// `engine NAME RING`, `echo NAME`, `application NAME`. Not a test by itself.
#[test]
#[ignore = "the other processes of the tests"]
fn party() {
    let Some(arguments) = arguments() else { return };
    let name = &arguments[1];
    match arguments[0].as_str() {
        "engine" => engine(name, arguments[2].parse().unwrap()),
        "echo" => echo(name),
        "application" => {
            let handle = connect(name);
            say("connected");
            End::new(handle.into()).obey();
        }
        role => panic!("no role {role}"),
    }
}

/// Connects as soon as there is an engine of that name.
fn connect(name: &str) -> SpscHandle {
    loop {
        match SpscHandle::builder().send_timeout(None).connect(name) {
            Err(ShmError::NotFound { .. } | ShmError::HungUp | ShmError::Io { .. }) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            connected => return connected.unwrap(),
        }
    }
}

/// Serves one application after the other, each on the word `accept`.
fn engine(name: &str, ring_bytes: usize) {
    let builder = SpscListener::builder().ring_bytes(ring_bytes).send_timeout(None);
    let listener = builder.bind(name).unwrap();
    say("bound");
    while let Some(command) = listen() {
        assert_eq!(command, "accept");
        let face = block_on(listener.accept()).unwrap();
        say("accepted");
        End::new(face.into()).obey();
    }
}

/// Sends back all that comes, to any number of applications.
fn echo(name: &str) {
    let listener = SpscListener::builder().send_timeout(None).bind(name).unwrap();
    say("bound");
    while let Ok(face) = block_on(listener.accept()) {
        std::thread::spawn(move || {
            while let Some(packet) = face.recv_blocking() {
                if face.send_blocking(packet).is_err() {
                    return;
                }
            }
            if face.finished() != Some(Ok(())) {
                face.cancel();
            }
        });
    }
}

/// One end of a channel, in halves.
struct End {
    sender: Option<Sender>,
    receiver: Option<Receiver>,
}

impl End {
    fn new(end: Endpoint) -> Self {
        let (sender, receiver) = end.into_split();
        Self { sender: Some(sender), receiver: Some(receiver) }
    }

    /// Does what the parent says until `next`, or until it has gone.
    fn obey(mut self) {
        while let Some(command) = listen() {
            let (verb, rest) = command.split_once(' ').unwrap_or((&command, ""));
            match verb {
                "send" => say(self.send(&mut Packets::parse(rest))),
                "receive" => say(self.receive(&mut Packets::parse(rest))),
                "exchange" => say(self.exchange(rest)),
                "fill" => say(self.fill()),
                "drain" => say(self.drain(rest.parse().unwrap())),
                "finish" => {
                    block_on(self.sender.take().unwrap().close()).unwrap();
                    say("finished");
                }
                "stop" => {
                    drop(self.receiver.take());
                    say("stopped");
                }
                "close" => {
                    self = Self { sender: None, receiver: None };
                    say("closed");
                }
                "cancel" => {
                    self.sender.as_ref().unwrap().cancel();
                    say("cancelled");
                }
                "end" => say(self.end()),
                "refused" => say(self.refused()),
                "state" => say(self.state()),
                "next" => return say("over"),
                other => panic!("no command {other}"),
            }
        }
    }

    fn send(&mut self, packets: &mut Packets) -> String {
        let sender = self.sender.as_mut().unwrap();
        for (number, packet) in packets.enumerate() {
            if let Err(error) = sender.send_blocking(packet) {
                return format!("{error} at {number}");
            }
        }
        "sent".to_owned()
    }

    fn receive(&mut self, packets: &mut Packets) -> String {
        let receiver = self.receiver.as_mut().unwrap();
        for (number, packet) in packets.enumerate() {
            match receiver.recv_blocking() {
                Some(received) if received == packet => {}
                Some(_) => return format!("packet {number} is another"),
                None => return format!("end at {number}: {:?}", receiver.close_reason()),
            }
        }
        "received".to_owned()
    }

    /// Sends and receives the same packets at the same time.
    fn exchange(&mut self, packets: &str) -> String {
        let (sender, receiver) = (self.sender.take(), self.receiver.take());
        let mut sending = Self { sender, receiver: None };
        let mut receiving = Self { sender: None, receiver };
        let (sent, received) = std::thread::scope(|scope| {
            let sent = scope.spawn(|| sending.send(&mut Packets::parse(packets)));
            let received = receiving.receive(&mut Packets::parse(packets));
            (sent.join().unwrap(), received)
        });
        *self = Self { sender: sending.sender, receiver: receiving.receiver };
        format!("{sent} and {received}")
    }

    /// Sends packets until there has been no room for a while, and says how many.
    fn fill(&mut self) -> String {
        let sender = self.sender.as_mut().unwrap();
        let (mut packets, mut count) = (Packets::of_length(FILLING), 0_u64);
        let mut since = Instant::now();
        let mut packet = packets.next().unwrap();
        while since.elapsed() < CALM {
            packet = match sender.try_send(packet) {
                Ok(()) => {
                    (since, count) = (Instant::now(), count + 1);
                    packets.next().unwrap()
                }
                Err(TrySendError::Full(packet)) => {
                    std::thread::sleep(Duration::from_millis(1));
                    packet
                }
                Err(error) => return error.to_string(),
            };
        }
        count.to_string()
    }

    /// Receives this many packets of a sender that fills its channel.
    fn drain(&mut self, count: u64) -> String {
        self.receive(&mut Packets::of_length(FILLING).take_only(count))
    }

    /// Receives what is left, and says how many packets that were and how it ended.
    fn end(&mut self) -> String {
        let receiver = self.receiver.as_mut().unwrap();
        let mut count = 0;
        while receiver.recv_blocking().is_some() {
            count += 1;
        }
        match receiver.finished().unwrap() {
            Ok(()) => format!("complete after {count}"),
            Err(reason) => format!("{reason} after {count}"),
        }
    }

    /// Says whether its channel still takes packets.
    fn state(&self) -> &'static str {
        if self.sender.as_ref().unwrap().is_closed() { "closed" } else { "open" }
    }

    /// Waits until nothing can be sent, and says why.
    fn refused(&mut self) -> String {
        block_on(self.sender.as_ref().unwrap().closed()).to_string()
    }
}
