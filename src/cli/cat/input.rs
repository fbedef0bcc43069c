//! Standard input, read by a thread on request.
//!
//! A task asks for packets, and the thread reads until it has some. The task asks for the next ones
//! while it sends these, so at most two reads are in memory: a peer that does not receive keeps
//! standard input from being read.

use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use futures::channel::oneshot;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::frames::{Frames, Splitter};
use crate::failure::Failure;

/// Bytes that are read at once.
const READ: usize = 64 << 10;

/// The packets of one or more reads; none at the end.
type Packets = Result<Vec<Bytes>, Failure>;

/// The packets in standard input.
#[derive(Debug)]
pub(crate) struct Input {
    requests: mpsc::Sender<oneshot::Sender<Packets>>,
    /// A request that is not answered yet.
    pending: Option<oneshot::Receiver<Packets>>,
    /// What a peer left unsent, for the next one.
    unsent: Vec<Bytes>,
    is_over: bool,
}

impl Input {
    /// Starts the thread. Packets have at most `max` bytes.
    pub(crate) fn start(frames: Frames, max: usize) -> Result<Self, Failure> {
        let (requests, wanted) = mpsc::channel();
        let reader = Reader::new(frames, max);
        thread::Builder::new()
            .name("standard input".to_owned())
            .spawn(move || reader.answer(&wanted))
            .map_err(Failure::io("starting a thread"))?;
        Ok(Self { requests, pending: None, unsent: Vec::new(), is_over: false })
    }

    /// Returns the next packets; none at the end of standard input.
    ///
    /// If the future is dropped before it is ready, the packets are those of the next call.
    pub(crate) async fn next(&mut self) -> Packets {
        if !self.unsent.is_empty() {
            return Ok(std::mem::take(&mut self.unsent));
        }
        if self.is_over {
            return Ok(Vec::new());
        }
        let pending = match &mut self.pending {
            Some(pending) => pending,
            none => none.insert(request(&self.requests)),
        };
        let packets = pending.await.unwrap_or_else(|_| Err(Failure::new("the reader is gone")))?;
        self.is_over = packets.is_empty();
        self.pending = (!self.is_over).then(|| request(&self.requests));
        Ok(packets)
    }

    /// Takes back packets that were not sent.
    pub(crate) fn give_back(&mut self, packets: Vec<Bytes>) {
        self.unsent = packets;
    }

    /// Whether a read would return at once, with bytes or with the end.
    pub(crate) fn is_ready() -> bool {
        let stdin = io::stdin();
        let mut poll = [PollFd::new(&stdin, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

fn request(requests: &mpsc::Sender<oneshot::Sender<Packets>>) -> oneshot::Receiver<Packets> {
    let (answer, pending) = oneshot::channel();
    // If the thread is gone, so is the answer.
    let _ = requests.send(answer);
    pending
}

/// What the thread has.
struct Reader {
    splitter: Splitter,
    buffer: Box<[u8]>,
    is_over: bool,
}

impl Reader {
    fn new(frames: Frames, max: usize) -> Self {
        let buffer = vec![0; READ].into_boxed_slice();
        Self { splitter: Splitter::new(frames, max), buffer, is_over: false }
    }

    fn answer(mut self, wanted: &mpsc::Receiver<oneshot::Sender<Packets>>) {
        for answer in wanted {
            let packets = self.read();
            // Nobody waits any more if the command is about to exit.
            let _ = answer.send(packets);
        }
    }

    fn read(&mut self) -> Packets {
        let mut packets = Vec::new();
        while packets.is_empty() && !self.is_over {
            match io::stdin().lock().read(&mut self.buffer) {
                Ok(0) => {
                    self.is_over = true;
                    packets.extend(self.splitter.finish().map_err(Failure::new)?);
                }
                Ok(read) => {
                    let read = &self.buffer[..read];
                    self.splitter.feed(read, &mut packets).map_err(Failure::new)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::io("reading standard input")(error)),
            }
        }
        Ok(packets)
    }
}
