//! One side of a measurement, from outside.

use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Result;

/// A process that runs this program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program with other arguments, and with a socket as its standard input.
    pub fn start(arguments: &[&str], socket: Option<UnixStream>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let input = socket.map_or_else(Stdio::null, |socket| OwnedFd::from(socket).into());
        let mut child = command.args(arguments).stdin(input).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Returns the next line that it prints.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a process ended too early".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Waits until it ends, and checks that it succeeded.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a process failed: {status}").into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
