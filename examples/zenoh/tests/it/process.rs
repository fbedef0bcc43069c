//! Second processes: a bridge, or this test binary told to run its ignored test
//! [`party`](crate::party).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::PATIENCE;

/// A process that is killed and reaped at the latest when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Runs a bridge, whose channels are in `directory`.
    pub fn bridge(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wakering-zenoh"));
        command.args(arguments).env("WAKERING_DIR", directory).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        Self { name: arguments[0].to_owned(), child, input: None, output: None }
    }

    /// Runs an engine or an application, whose channels are in `directory`.
    pub fn party(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["party::party", "--exact", "--ignored", "--nocapture", "--quiet"]);
        command.env("WAKERING_DIR", directory).env(ARGUMENTS, arguments.join(" "));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().map(BufReader::new);
        Self { name: arguments.join(" "), input: child.stdin.take(), output, child }
    }

    /// Tells a party to do something.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
    }

    /// Returns what a party says next. libtest's own output is passed over.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let begin = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            assert!(self.says_something_within(left), "{} says nothing", self.name);
            let mut line = String::new();
            let read = self.output.as_mut().unwrap().read_line(&mut line).unwrap();
            assert!(read > 0, "{} ended: {:?}", self.name, self.child.wait());
            // libtest prints dots without a line's end.
            if let Some((_, said)) = line.trim_end().split_once("PARTY ") {
                return said.to_owned();
            }
        }
    }

    pub fn says_something_within(&self, patience: Duration) -> bool {
        let output = self.output.as_ref().unwrap();
        let patience = Timespec::try_from(patience).unwrap();
        let mut poll = [PollFd::new(output.get_ref(), PollFlags::IN)];
        !output.buffer().is_empty() || rustix::event::poll(&mut poll, Some(&patience)).unwrap() > 0
    }

    /// Waits until a party says this.
    #[track_caller]
    pub fn expect(&mut self, said: &str) {
        assert_eq!(self.hear(), said, "by {}", self.name);
    }

    /// Tells a party to do something, and waits until it says this.
    #[track_caller]
    pub fn does(&mut self, command: &str, said: &str) {
        self.tell(command);
        self.expect(said);
    }

    /// Whether a party's channel still takes packets.
    #[track_caller]
    pub fn is_open(&mut self) -> bool {
        self.tell("state");
        self.hear() == "open"
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ARGUMENTS: &str = "WAKERING_TEST_ARGUMENTS";

/// What the parent told this process to be; `None` if there is no parent, because somebody runs all
/// ignored tests.
pub fn arguments() -> Option<Vec<String>> {
    let arguments = std::env::var(ARGUMENTS).ok()?;
    // Nobody is left behind, however the parent ends.
    let kill = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(kill).unwrap();
    Some(arguments.split(' ').map(str::to_owned).collect())
}

/// Tells the parent something.
pub fn say(said: impl std::fmt::Display) {
    println!("PARTY {said}");
}

/// Returns the next command of the parent; `None` when it has gone.
pub fn listen() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end().to_owned()),
    }
}
