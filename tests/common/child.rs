//! Second processes: the test binary itself, which is told to run one of its ignored tests.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, set_parent_process_death_signal};
use wakering::Backend;

/// The full name of a test of this module, for [`Child::start`].
#[allow(unused_macros, reason = "not for a binary without second processes")]
macro_rules! test_path {
    ($test:ident) => {{
        // This compiles only if there is such a test.
        let _: fn() = $test;
        let path = concat!(module_path!(), "::", stringify!($test));
        $crate::common::child::without_crate(path)
    }};
}
pub(crate) use test_path;

/// Returns the path of a test without the crate's name, which is how libtest names it.
pub fn without_crate(path: &'static str) -> &'static str {
    path.split_once("::").unwrap().1
}

const ARGUMENTS: &str = "WAKERING_TEST_ARGUMENTS";

/// A process that is killed and reaped when this is dropped, if not before.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Runs the ignored test `name` of this binary in a new process.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self::spawn(&mut command, name, arguments).unwrap()
    }

    /// Runs the test as another user, if this process may do that.
    pub fn start_as(uid: u32, name: &str, arguments: &[&str]) -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.uid(uid).gid(uid).current_dir("/");
        Self::spawn(&mut command, name, arguments)
    }

    /// Runs the test with one more variable in its environment.
    pub fn start_with(variable: (&str, &OsStr), name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(variable.0, variable.1);
        Self::spawn(&mut command, name, arguments).unwrap()
    }

    /// Runs the test under `tool`, which takes the command to run as its arguments.
    pub fn start_under(tool: &[&str], name: &str, arguments: &[&str]) -> std::io::Result<Self> {
        let mut command = Command::new(tool[0]);
        command.args(&tool[1..]).arg(std::env::current_exe()?);
        Self::spawn(&mut command, name, arguments)
    }

    fn spawn(command: &mut Command, name: &str, arguments: &[&str]) -> std::io::Result<Self> {
        command.args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1", "--quiet"]);
        command.env(ARGUMENTS, arguments.join("\n"));
        Self::run(command)
    }

    /// Runs another program, which writes the lines that [`say`] writes.
    pub fn run(command: &mut Command) -> std::io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let output = BufReader::new(process.stdout.take().unwrap());
        Ok(Self { input: process.stdin.take(), output, process })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the next word that the child said. Skips libtest's own output.
    pub fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the child ended: {:?}", self.process.wait());
            // libtest prints dots without the end of a line.
            if let Some((_, said)) = line.trim_end().split_once("CHILD ") {
                return said.to_owned();
            }
        }
    }

    /// Whether the child has said something that was not heard yet.
    pub fn has_said_something(&mut self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut poll = [PollFd::new(self.output.get_ref(), PollFlags::IN)];
        !self.output.buffer().is_empty() || rustix::event::poll(&mut poll, Some(&now)).unwrap() > 0
    }

    /// Waits until the child says something, which must be `word`.
    pub fn expect(&mut self, word: &str) {
        assert_eq!(self.hear(), word);
    }

    /// Says something to the child.
    pub fn tell(&mut self, word: &str) {
        writeln!(self.input.as_mut().unwrap(), "{word}").unwrap();
    }

    /// Kills the child and returns the time just before that. Does not reap it.
    pub fn kill(&mut self) -> Instant {
        let now = Instant::now();
        self.process.kill().unwrap();
        now
    }

    /// Waits until the child ends.
    pub fn wait(mut self) -> ExitStatus {
        drop(self.input.take());
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < super::PATIENCE, "the child does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs an ignored test of this binary in a new process, and requires it to pass.
pub fn passes(name: &str, arguments: &[&str]) {
    let status = Child::start(name, arguments).wait();
    assert!(status.success(), "{name} {arguments:?}: {status}");
}

/// Returns what the parent told this process to do. Returns `None` if there is no parent, because
/// all ignored tests are being run.
pub fn arguments() -> Option<Vec<String>> {
    let arguments = std::env::var(ARGUMENTS).ok()?;
    // This process must not outlive the parent, however the parent ends.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    Some(arguments.split('\n').map(str::to_owned).collect())
}

/// Says something to the parent.
#[allow(clippy::print_stdout, reason = "that is how")]
pub fn say(word: impl std::fmt::Display) {
    println!("CHILD {word}");
}

/// Returns the next word of the parent, or `None` if the parent has gone.
pub fn listen() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end().to_owned()),
    }
}

/// Returns the backend of this name.
pub fn backend(name: &str) -> Backend {
    match name {
        "io-uring" => Backend::IoUring,
        "epoll" => Backend::Epoll,
        other => panic!("no backend {other}"),
    }
}

/// Parses an argument as a number.
pub fn parsed<T: FromStr>(argument: &str) -> T {
    argument.parse().unwrap_or_else(|_| panic!("not a number: {argument}"))
}
