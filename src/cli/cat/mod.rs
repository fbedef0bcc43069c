//! `cat`: standard input to packets, and packets to standard output.

mod frames;
mod input;
mod output;
mod session;

use std::io::{self, Write};

use clap::{ArgGroup, Args};
use wakering::{Driver, Endpoint, FaceBuilder, SpscFace, SpscHandle, SpscListener};

use crate::failure::{Failure, Unserved, help};
use crate::json::Object;
use crate::options::{BackendOption, WaitOption, bytes};
use crate::text::count;
use frames::Frames;
use input::Input;
use session::{Session, Verdict};

/// Send standard input as packets, and write the packets that come to standard output
///
/// Both ways at once, as an application that connects to the engine NAME, or as the engine itself.
/// At the end of standard input it ends its own direction and goes on to receive, until the peer
/// ends the other direction. While standard output takes nothing it receives nothing, and while the
/// peer receives nothing it reads no more than two pieces of standard input.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("serves").args(["engine", "listen"]), after_help = help(HELP))]
pub(crate) struct Arguments {
    /// The engine's name, or the path of its socket
    name: String,
    /// How packets lie in standard input and output
    #[arg(long, value_enum, default_value_t = Frames::Lines)]
    frames: Frames,
    /// Be the engine, for one application
    #[arg(long, conflicts_with = "wait")]
    engine: bool,
    /// Be the engine, for one application after another
    #[arg(long, conflicts_with = "wait")]
    listen: bool,
    /// Exit after that many applications
    #[arg(long, value_name = "N", requires = "listen")]
    sessions: Option<u64>,
    /// Read no standard input, and end the own direction after the peer's, once all that came is
    /// written
    #[arg(long)]
    no_input: bool,
    /// The longest packet, in bytes
    #[arg(long, value_name = "BYTES", requires = "serves", value_parser = bytes)]
    max_packet: Option<usize>,
    /// The size of the ring for each direction, in bytes: a power of two
    #[arg(long, value_name = "BYTES", requires = "serves", value_parser = bytes)]
    ring_bytes: Option<usize>,
    #[command(flatten)]
    wait: WaitOption,
    #[command(flatten)]
    backend: BackendOption,
    /// Print what passed on standard error, as one JSON object for each channel
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
The exit status is 0 only if all of standard input was sent while the peer received, and if the peer
ended its own direction in order. It is 1 if the peer died, cancelled, broke the protocol, or stopped
receiving before the end of standard input; then, too, the peer sees no orderly end.

To know that the other side has written all, let that side run with --no-input: it ends its direction
only then, and the sender waits for that.

With --listen, packets for an application that has left go to the next one. What it had not read is
lost, and makes the exit status 1. The name stays in use until --sessions applications were served.
An application for which memory or descriptors are lacking is told so, and does not count.

Examples:
  wakering cat --engine --no-input logs > log      and   wakering cat --wait logs < log.1
  printf 'status\\n' | wakering cat control
  tar c src | wakering cat --frames bytes backup";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    // This thread sleeps in the driver itself.
    let driver = arguments.backend.driver().build()?;
    if arguments.listen {
        return listen(arguments, &driver);
    }
    let end: Endpoint = if arguments.engine {
        let face = face(arguments, &driver).create(&arguments.name)?;
        driver.block_on(face.connected())?;
        face.into()
    } else {
        let handle = SpscHandle::builder().driver(&driver).send_timeout(None);
        arguments.wait.connect(&arguments.name, &handle)?.into()
    };
    let mut input = None;
    let session = serve(arguments, &driver, end, &mut input, true)?;
    if arguments.json {
        report(&session.json());
    }
    session.verdict.failure().cloned().map_or(Ok(()), Err)
}

/// Serves one application after another.
fn listen(arguments: &Arguments, driver: &Driver) -> Result<(), Failure> {
    let listener: SpscListener = face(arguments, driver).bind(&arguments.name)?;
    let (mut input, mut served, mut cut_off) = (None, 0, 0);
    let mut unserved = Unserved::default();
    while arguments.sessions.is_none_or(|sessions| served < sessions) {
        let face = match driver.block_on(listener.accept()) {
            Ok(face) => face,
            Err(error) => {
                unserved.report(error)?;
                continue;
            }
        };
        let pid = face.peer_credentials().map(|peer| peer.pid);
        served += 1;
        let last = arguments.sessions == Some(served);
        let session = serve(arguments, driver, face.into(), &mut input, last)?;
        if arguments.json {
            report(&session.json().with("session", served).with("pid", pid));
        } else {
            let _ = writeln!(io::stderr(), "application {served}: {}", session.text());
        }
        match session.verdict {
            Verdict::Complete => {}
            Verdict::CutOff(failure) => {
                cut_off += 1;
                let _ = writeln!(io::stderr(), "application {served}: {failure}");
            }
            Verdict::Broken(failure) => return Err(failure),
        }
    }
    if cut_off > 0 {
        let served = count(served, "application");
        return Err(Failure::new(format!("{cut_off} of {served} had no orderly end")));
    }
    Ok(())
}

fn face(arguments: &Arguments, driver: &Driver) -> FaceBuilder {
    let mut face = SpscFace::builder().driver(driver).send_timeout(None);
    if let Some(bytes) = arguments.max_packet {
        face = face.max_packet(bytes);
    }
    if let Some(bytes) = arguments.ring_bytes {
        face = face.ring_bytes(bytes);
    }
    face
}

/// Serves one channel. All channels of a listener have packets of the same length.
fn serve(
    arguments: &Arguments,
    driver: &Driver,
    end: Endpoint,
    input: &mut Option<Input>,
    last: bool,
) -> Result<Session, Failure> {
    if input.is_none() && !arguments.no_input {
        *input = Some(Input::start(arguments.frames, end.max_packet())?);
    }
    driver.block_on(Session::run(end, input.as_mut(), arguments.frames, last))
}

/// Standard output is for the packets.
fn report(object: &Object) {
    let _ = writeln!(io::stderr(), "{}", object.text());
}
