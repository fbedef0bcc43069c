//! `doctor`: what this machine has to offer to channels, and what stands in their way.

mod channel;
mod directory;
mod kernel;
mod limits;
mod section;
mod self_test;
mod spin;

use clap::Args;

use crate::failure::{Failure, help};
use crate::json::Object;
use crate::{say, text};
use section::{Level, Section};

/// Look for what stands in the way of channels here
///
/// It looks at the kernel, io_uring and what forbids it, the directory of names, limits, and cores;
/// measures whether it pays to spin and what a channel takes; and has packets pass between two ends
/// of its own. It takes about a second. Like any engine, it may leave a lock file in the directory.
#[derive(Debug, Args)]
#[command(after_help = help(HELP))]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Each line is `ok`; or a `note`, of what works otherwise than it might; or a `problem`, of what does
not work. The exit status is 1 if there is a problem.

Examples:
  wakering doctor
  wakering doctor --json | jq .io_uring.reason
  WAKERING_DIR=/srv/media wakering doctor";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let directory = directory::look();
    let sections = [
        kernel::look(),
        kernel::look_at_io_uring(),
        directory.section,
        limits::look(),
        spin::look(),
        channel::look(),
        self_test::look(directory.name),
    ];
    if arguments.json {
        say(&object(&sections).text())?;
    } else {
        for section in &sections {
            section.lines().iter().try_for_each(|line| say(line))?;
        }
    }
    let problems: Vec<&str> = sections.iter().flat_map(Section::problems).collect();
    match problems.split_first() {
        None => Ok(()),
        Some((first, [])) => Err(Failure::new(*first)),
        Some((first, more)) => {
            let more = text::count(more.len() as u64, "other problem");
            Err(Failure::new(format!("{first} (and {more})")))
        }
    }
}

fn object(sections: &[Section]) -> Object {
    let mut object = Object::new();
    for section in sections {
        object = object.with(section.name, section.facts.clone());
    }
    let findings = |level| -> Vec<String> {
        let of_section = |section: &Section| {
            let texts = section.findings.iter().filter(|finding| finding.level == level);
            let texts = texts.map(|finding| format!("{}: {}", section.name, finding.text));
            texts.collect::<Vec<_>>()
        };
        sections.iter().flat_map(of_section).collect()
    };
    object.with("notes", findings(Level::Note)).with("problems", findings(Level::Problem))
}
