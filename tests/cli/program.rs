//! A run of the command.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use wakering::{Driver, SpscHandle};

use crate::common::{Dir, PATIENCE, eventually, join};

/// The command with these arguments, split at spaces. It finds relative names in `dir`.
pub(crate) fn command(dir: &Dir, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakering"));
    command.args(arguments.split_whitespace()).env("WAKERING_DIR", dir.path());
    command
}

/// A run, which is killed at the latest when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    process: Child,
    /// Writes standard input, if it is to be written.
    writer: Option<JoinHandle<()>>,
    output: Option<JoinHandle<Vec<u8>>>,
    errors: Option<JoinHandle<Vec<u8>>>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status; `None` if it was killed.
    pub(crate) status: Option<i32>,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
}

impl Program {
    /// Starts it with nothing in standard input.
    pub(crate) fn start(dir: &Dir, arguments: &str) -> Self {
        Self::spawn(command(dir, arguments).stdin(Stdio::null()))
    }

    /// Starts it, and writes all of `input` to it.
    pub(crate) fn start_with(dir: &Dir, arguments: &str, input: Vec<u8>) -> Self {
        let mut program = Self::spawn(command(dir, arguments).stdin(Stdio::piped()));
        let mut stdin = program.stdin();
        // It may exit before it has read all.
        program.writer = Some(thread::spawn(move || drop(stdin.write_all(&input))));
        program
    }

    /// Starts it, and reads its standard output.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let (mut program, output) = Self::spawn_unread(command);
        program.output = Some(read(output));
        program
    }

    /// Starts it, and leaves its standard output to the caller.
    pub(crate) fn spawn_unread(command: &mut Command) -> (Self, ChildStdout) {
        let mut program = Self::spawn_into(command.stdout(Stdio::piped()));
        let output = program.process.stdout.take().unwrap();
        (program, output)
    }

    /// Starts it with the standard output that the caller has set.
    pub(crate) fn spawn_into(command: &mut Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let errors = process.stderr.take().map(read);
        Self { process, writer: None, output: None, errors }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its standard input, which the caller has asked to be piped.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.process.stdin.take().unwrap()
    }

    /// Whether it has joined a channel.
    pub(crate) fn has_region(&self) -> bool {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid()));
        maps.unwrap_or_default().contains("memfd:wakering")
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status.code();
            }
            assert!(begin.elapsed() < PATIENCE, "the command does not end");
            thread::sleep(Duration::from_millis(1));
        };
        if let Some(writer) = self.writer.take() {
            join("its standard input is written", writer);
        }
        let text = |reader: Option<JoinHandle<Vec<u8>>>| {
            reader.map_or_else(Vec::new, |reader| join("its output is read", reader))
        };
        let (output, errors) = (text(self.output.take()), text(self.errors.take()));
        Ended { status, output, errors: String::from_utf8(errors).unwrap() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Connects to an engine that was just started.
pub(crate) fn connected(driver: &Driver, name: &str) -> SpscHandle {
    let mut handle = None;
    eventually("the engine is there", || {
        handle = SpscHandle::builder().driver(driver).connect(name).ok();
        handle.is_some()
    });
    handle.unwrap()
}

/// Runs it to its end, with nothing in standard input.
pub(crate) fn run(dir: &Dir, arguments: &str) -> Ended {
    Program::start(dir, arguments).wait()
}

impl Ended {
    /// It went well, and had nothing to say on standard error.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Vec<u8> {
        assert_eq!((self.status, self.errors.as_str()), (Some(0), ""));
        self.output
    }

    /// It failed with this status, and with one line on standard error that begins with the
    /// command's name and contains this.
    #[track_caller]
    pub(crate) fn failed(&self, status: i32, text: &str) {
        assert_eq!(self.status, Some(status), "{}", self.errors);
        assert!(self.errors.starts_with("wakering "), "{}", self.errors);
        assert_eq!(self.errors.lines().count(), 1, "{}", self.errors);
        assert!(self.errors.contains(text), "no {text:?} in {}", self.errors);
    }

    /// The objects in standard output, one a line.
    #[track_caller]
    pub(crate) fn objects(&self) -> Vec<Value> {
        objects(std::str::from_utf8(&self.output).unwrap())
    }
}

/// The objects of JSON in a text, one a line.
#[track_caller]
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let object = |line: &str| -> Value { serde_json::from_str(line).expect(line) };
    let objects: Vec<Value> = text.lines().map(object).collect();
    assert!(objects.iter().all(Value::is_object), "{text}");
    objects
}
