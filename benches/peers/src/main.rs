//! Measures wakering beside other ways to carry packets between two processes, and beside what the
//! machine gives at best: all in one run, on one machine.
//!
//! From below: [`packet`] says what is carried and checks it, [`port`] what a system has to offer
//! and the loops that use it, [`systems`] has them all. [`stage`] is a process in which one side of
//! a system performs; [`coordinator`] starts two of them for each [`cell`] of the tables, watches
//! over them and gathers the [`outcome`]s; [`report`] writes them down.

use std::process::ExitCode;

mod packet;
mod meters;
mod outcome;
mod cell;
mod link;
mod port;
#[allow(unsafe_code, reason = "words in memory that two processes map")]
mod shared;
mod stage;
#[allow(unsafe_code, reason = "bare rings, and rivals that hand out pointers")]
mod systems;
mod arguments;
mod coordinator;
mod results;
mod report;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let done = if arguments.next_if(|first| first == arguments::STAGE).is_some() {
        stage::perform(arguments).map(|outcome| println!("{outcome}"))
    } else {
        match arguments::parse(arguments) {
            Ok(Some(options)) => coordinator::run(&options),
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
