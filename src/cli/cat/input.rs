//! Standard input, read by a thread on request.
//!
//! A task asks for packets, and the thread reads until it has some. The task asks for the next ones
//! while it sends these, so at most two reads are in memory: a peer that does not receive keeps
//! standard input from being read.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

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
    /// Shared with the thread.
    splitter: Arc<Mutex<Splitter>>,
}

impl Input {
    /// Starts the thread. Packets have at most `max` bytes.
    pub(crate) fn start(frames: Frames, max: usize) -> Result<Self, Failure> {
        let (requests, wanted) = mpsc::channel();
        let splitter = Arc::new(Mutex::new(Splitter::new(frames, max)));
        let reader = Reader::new(splitter.clone());
        thread::Builder::new()
            .name("standard input".to_owned())
            .spawn(move || reader.answer(&wanted))
            .map_err(Failure::io("starting a thread"))?;
        Ok(Self { requests, pending: None, unsent: Vec::new(), is_over: false, splitter })
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

    /// Returns what there is besides the packets that [`next`](Self::next) has at hand.
    pub(crate) fn rest(&self) -> Rest {
        // Whatever is read is split and handed over before the reader lets go.
        match self.splitter.try_lock() {
            Ok(_) if is_ready(Some(Duration::ZERO)) => Rest::Unread,
            Ok(splitter) if splitter.is_empty() => Rest::Nothing,
            Ok(_) => Rest::Part,
            Err(_) => Rest::Unread,
        }
    }
}

/// What is left of standard input, at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Nothing,
    /// A packet that is not complete.
    Part,
    /// More bytes, or the end: the reader is about to tell.
    Unread,
}

/// Whether a read would return at once, with bytes, the end or an error; waits for that so long.
fn is_ready(timeout: Option<Duration>) -> bool {
    let stdin = io::stdin();
    let mut poll = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let polled = rustix::event::poll(&mut poll, timeout.as_ref());
    polled.map_or_else(|error| error != Errno::INTR, |ready| ready > 0)
}

fn request(requests: &mpsc::Sender<oneshot::Sender<Packets>>) -> oneshot::Receiver<Packets> {
    let (answer, pending) = oneshot::channel();
    // If the thread is gone, so is the answer.
    let _ = requests.send(answer);
    pending
}

/// What the thread has.
struct Reader {
    /// Locked from a read until its packets are handed over, and not while there is nothing to
    /// read.
    splitter: Arc<Mutex<Splitter>>,
    buffer: Box<[u8]>,
    is_over: bool,
}

impl Reader {
    fn new(splitter: Arc<Mutex<Splitter>>) -> Self {
        Self { splitter, buffer: vec![0; READ].into_boxed_slice(), is_over: false }
    }

    fn answer(mut self, wanted: &mpsc::Receiver<oneshot::Sender<Packets>>) {
        let splitter = self.splitter.clone();
        for answer in wanted {
            loop {
                if !self.is_over && !is_ready(None) {
                    continue;
                }
                let mut splitter = splitter.lock().unwrap_or_else(PoisonError::into_inner);
                let packets = self.read(&mut splitter);
                if self.is_over || packets.as_ref().map_or(true, |packets| !packets.is_empty()) {
                    // Nobody waits any more if the command is about to exit.
                    let _ = answer.send(packets);
                    break;
                }
            }
        }
    }

    /// Reads once. Returns the packets that are complete.
    fn read(&mut self, splitter: &mut Splitter) -> Packets {
        let mut packets = Vec::new();
        if self.is_over {
            return Ok(packets);
        }
        match io::stdin().lock().read(&mut self.buffer) {
            Ok(0) => {
                self.is_over = true;
                packets.extend(splitter.finish().map_err(Failure::new)?);
            }
            Ok(read) => splitter.feed(&self.buffer[..read], &mut packets).map_err(Failure::new)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::io("reading standard input")(error)),
        }
        Ok(packets)
    }
}
