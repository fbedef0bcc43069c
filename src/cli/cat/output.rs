//! Standard output, written by a thread that receives.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;

use futures::channel::oneshot;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use wakering::{CloseReason, Receiver};

use super::frames::Frames;
use crate::failure::Failure;

/// Packets that are received at once.
const BATCH: usize = 256;

/// How the peer's stream ended, unless standard output has failed.
pub(crate) type Written = Result<Result<(), CloseReason>, Failure>;

/// Starts a thread that writes all that `rx` receives, and answers when the stream has ended.
///
/// While standard output takes nothing, it receives nothing, and the peer's sends wait.
pub(crate) fn start(rx: Receiver, frames: Frames) -> Result<oneshot::Receiver<Written>, Failure> {
    let (answer, written) = oneshot::channel();
    // Without the buffer of `Stdout`, which writes line by line.
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::io(WRITING))?;
    thread::Builder::new()
        .name("standard output".to_owned())
        .spawn(move || answer.send(write_all(rx, frames, &mut Output(File::from(output)))))
        .map_err(Failure::io("starting a thread"))?;
    Ok(written)
}

const WRITING: &str = "writing to standard output";

/// Standard output, which may be nonblocking because another process has made it so.
struct Output(File);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut output = [PollFd::new(&self.0, PollFlags::OUT)];
                    retry_on_intr(|| poll(&mut output, None))?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn write_all(mut rx: Receiver, frames: Frames, output: &mut Output) -> Written {
    let (mut packets, mut text) = (Vec::with_capacity(BATCH), Vec::new());
    while rx.recv_batch_blocking(&mut packets, BATCH) > 0 {
        text.clear();
        for packet in packets.drain(..) {
            frames.append(&packet, &mut text);
        }
        if let Err(error) = output.write_all(&text) {
            // Nobody reads on: the peer must not take what it sends for received.
            rx.cancel();
            return Err(Failure::io(WRITING)(error));
        }
    }
    Ok(rx.finished().unwrap_or(Ok(())))
}
