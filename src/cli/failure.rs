//! Why a command fails, and the exit status that tells it.

use std::fmt;
use std::io::{self, Write};

use wakering::{CloseReason, ShmError};

/// The statuses with which the program exits, as `--help` shows them.
pub(crate) const EXIT_STATUS: &str = "\
Exit status:
  0    success
  1    failure; one line on standard error says why
  2    the arguments are not allowed
  124  a deadline passed: one that was set, or the 5 seconds that an engine has to answer";

/// The last part of a command's help: its own, and the statuses with which all exit.
pub(crate) fn help(own: &str) -> String {
    format!("{own}\n\n{EXIT_STATUS}")
}

/// Why a command fails.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The exit status.
    pub(crate) status: u8,
    message: String,
}

impl Failure {
    /// A failure of the command's work.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { status: 1, message: message.into() }
    }

    /// An argument that is not allowed, which only the work shows.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { status: 2, message: message.into() }
    }

    /// A deadline that passed.
    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self { status: 124, message: message.into() }
    }

    /// Used as `.map_err(Failure::io("reading standard input"))`.
    pub(crate) fn io(step: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(format!("{step}: {error}"))
    }
}

/// The errors of a listener that goes on after them.
#[derive(Debug, Default)]
pub(crate) struct Unserved {
    /// The text of the last one.
    last: String,
}

impl Unserved {
    /// Reports an error, unless the one before was the same: an application may try again and
    /// again. Fails if the listener has ended.
    pub(crate) fn report(&mut self, error: ShmError) -> Result<(), Failure> {
        if let ShmError::Closed { .. } = error {
            return Err(error.into());
        }
        let text = Failure::from(error).to_string();
        if text != self.last {
            let _ = writeln!(io::stderr(), "an application was not served: {text}");
            self.last = text;
        }
        Ok(())
    }
}

impl From<ShmError> for Failure {
    fn from(error: ShmError) -> Self {
        let message = match &error {
            // The source has the errno and the path.
            ShmError::Io { source, .. } => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        match error {
            ShmError::TimedOut { .. } => Self::timed_out(message),
            ShmError::InvalidName | ShmError::InvalidConfig { .. } => Self::usage(message),
            _ => Self::new(message),
        }
    }
}

impl From<CloseReason> for Failure {
    fn from(reason: CloseReason) -> Self {
        Self::new(format!("the channel was cut off: {reason}"))
    }
}

impl fmt::Display for Failure {
    /// One line. It may name what other processes have named: nothing in it may reach a terminal as
    /// a command.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.replace(char::is_control, "?"))
    }
}
