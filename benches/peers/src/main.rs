//! Measures wakering beside other ways to carry packets between two processes, and beside what the
//! machine gives at best: all in one run, on one machine.
//!
//! From below: [`packet`], [`items`] and [`trips`] say what is carried and check it, [`loops`]
//! what a system has to offer, and [`systems`] has them all. A [`stage`] is a process in which one
//! side of a system performs; a [`runner`] starts two of them and keeps a [`record`]. A [`plan`]
//! says what runs after what, [`comparison`] does it all, and [`results`] are ratios of
//! neighbours, which [`report`] writes down. [`check`] compares with plain loops.

use std::process::ExitCode;

mod row;
mod packet;
mod items;
mod trips;
mod outcome;
mod meters;
mod hop;
mod link;
mod order;
mod loops;
#[allow(unsafe_code, reason = "words in memory that two processes map")]
mod shared;
mod stage;
mod system;
#[allow(unsafe_code, reason = "bare rings, and rivals that hand out pointers")]
mod systems;
mod record;
mod runner;
mod quartiles;
mod regimes;
mod results;
mod arguments;
mod goals;
mod plan;
mod report;
mod comparison;
mod check;

use arguments::Mode;
use stage::Stage;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let done = if arguments.next_if(|first| first == runner::STAGE).is_some() {
        perform(arguments)
    } else {
        match arguments::parse(arguments) {
            Ok(Some(options)) => match options.mode {
                Mode::Compare => comparison::run(&options),
                Mode::Check => check::run(&options),
                Mode::List => {
                    systems::all()
                        .for_each(|system| println!("{:34} {}", system.name, system.about));
                    Ok(())
                }
            },
            Ok(None) => {
                print!("{}", arguments::HELP);
                Ok(())
            }
            Err(problem) => {
                eprintln!("{problem}");
                return ExitCode::from(2);
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// In a process of a run: does what the command line says, and answers with a line.
fn perform(words: impl Iterator<Item = String>) -> Result<()> {
    let order = order::Order::from_words(words)?;
    let system =
        systems::find(&order.system).ok_or_else(|| format!("no system {:?}", order.system))?;
    let outcome = (system.perform)(&mut Stage::set(order)?)?;
    println!("{outcome}");
    Ok(())
}
