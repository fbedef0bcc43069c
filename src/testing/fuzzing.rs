//! What the fuzzers in `fuzz/` run: one function for each target, which panics if a promise is
//! broken.
//!
//! Not part of the API: it is compiled under `cfg(fuzzing)`, and for the crate's own tests, which
//! run the seeds and every input that once found something.

mod attach;
mod handshake;
#[allow(unsafe_code, reason = "lending is")]
mod peer;
mod ring;

pub use attach::attach;
pub use handshake::handshake;
pub use peer::peer;
pub use ring::ring;

/// The fuzzer's bytes, read from the front. The input is over when they are used up.
#[derive(Debug, Clone)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn half(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn word(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Returns up to `most` bytes; fewer at the end.
    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        front
    }
}

/// Checks now and then how many descriptors this process has: a leak of one for each input is soon
/// noticed.
fn no_descriptor_leaks() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static INPUTS: AtomicU32 = AtomicU32::new(0);
    if INPUTS.fetch_add(1, Ordering::Relaxed) % 512 == 511 {
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        assert!(open < 400, "{open} descriptors are open");
    }
}

/// Waits until no thread closes descriptors any more. A thread that is about to exit looks like a
/// leak to LeakSanitizer, which does not see what the thread holds at that time.
fn no_thread_closes() {
    let closes = || {
        let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let mut names = threads.map(|thread| std::fs::read(thread.path().join("comm")));
        names.any(|name| name.is_ok_and(|name| name.starts_with(b"wakering-close")))
    };
    // Not measured by the clock, which continues while the process is stopped.
    for _ in 0..5000 {
        if !closes() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests;
