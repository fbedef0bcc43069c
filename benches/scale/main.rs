//! What do ten thousand channels cost, asleep and at work?
//!
//! The engine is this process, with one thread. The applications are processes of this same
//! program, on another core if there is one.
//!
//! - [`parked`]: every channel has a task that waits for a packet and answers it. Does one of many
//!   wake more slowly because of the others, and what do they hold meanwhile?
//! - [`busy`]: every channel but one gets packets all the time. How many packets does the thread
//!   receive in all, and how long does a packet of the quiet one take?
//!
//! ```sh
//! cargo bench --bench scale            # up to 10,000 channels, if the descriptors allow them
//! cargo bench --bench scale -- --quick # up to 1,000
//! cargo bench --bench scale -- --one-core
//! cargo bench --bench scale -- --busy  # or `--parked`: no more than that
//! ```
//!
//! Between two cores, most of a wake is the time that the kernel takes to wake the other core. On
//! one core, the library's part and a switch of processes are left.
//!
//! The benchmark fails if a wake or a packet is lost, if the latency of a wake grows with the
//! number of parked channels, if an idle side holds more memory than it may, or if the idle engine
//! uses the processor at all.
#![allow(clippy::print_stdout, reason = "this is a report")]

use rustix::thread::{CpuSet, sched_getaffinity};
use wakering::{Backend, Driver};

use application::{Place, Sockets};
use program::{backend, number, stay_on, this_program};
use runner::Way;

mod application;
mod busy;
mod crowd;
mod descriptors;
mod meters;
mod parked;
mod program;
mod runner;

const MOST: usize = 10_000;
const MOST_QUICK: usize = 1_000;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--application", core, backend, spin, name, channels] => {
            stay_on(number(core));
            return application::run(self::backend(backend), spin, name, number(channels));
        }
        ["--engine", what, core, backend, channels, other_core] => {
            stay_on(number(core));
            let place = Place { core: other_core.to_owned(), sockets: Sockets::new() };
            let (backend, channels) = (self::backend(backend), number(channels));
            return match what {
                "parked" => parked::measure(backend, channels, &place),
                way => busy::measure(Way::named(way), backend, channels, &place),
            };
        }
        _ => {}
    }
    // Without this argument, cargo runs the benchmark as a test, which should be quick.
    let has = |wanted| arguments.iter().any(|argument| argument == wanted);
    let most = if has("--quick") || !has("--bench") { MOST_QUICK } else { MOST };
    descriptors::raise();
    let ours = sched_getaffinity(None).expect("our own");
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&core| ours.is_set(core)).collect();
    let other = cores.get(1).filter(|_| !has("--one-core")).unwrap_or(&cores[0]);
    let [here, there] = [&cores[0], other].map(|core| core.to_string());
    println!("the engine is on core {here}, the applications on {there}");
    for backend in [Backend::IoUring, Backend::Epoll] {
        if let Err(error) = Driver::builder().backend(backend).build() {
            println!("\n{backend} is left out: {error}");
            continue;
        }
        let engine = |what: &str, channels: usize| {
            let (backend, channels) = (backend.to_string(), channels.to_string());
            // In a process of its own, because memory that was used once is reused.
            let mut engine = this_program();
            let engine = engine.args(["--engine", what, &here, &backend, &channels, &there]);
            assert!(engine.status().expect("a process").success(), "{what}, {backend}: it fails");
        };
        if !has("--busy") {
            engine("parked", descriptors::allowed(most, parked::FEW.iter().sum()));
        }
        if !has("--parked") {
            let most = descriptors::allowed(most, busy::CROWDS.iter().sum());
            Way::ALL.iter().for_each(|way| engine(&way.to_string(), most));
        }
    }
}
