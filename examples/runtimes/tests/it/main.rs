//! Each runtime, with the glue that the library's docs recommend, in two processes.

mod common;
mod directory;
mod page;
mod scenarios;

use scenarios::Work;

/// Runs work under a runtime.
type Run = fn(Work);

/// Makes the tests of each runtime.
macro_rules! runtimes {
    ($($glue:ident),+ $(,)?) => {
        /// The runtimes, by the names of their glue.
        const RUNTIMES: &[(&str, Run)] = &[$((stringify!($glue), $glue::run)),+];

        $(mod $glue {
            use crate::scenarios::{self, Work};

            const NAME: &str = stringify!($glue);

            pub fn run(work: Work) {
                runtimes::glue::$glue::run(work).unwrap();
            }

            #[test]
            fn packets_arrive_whole_and_in_order_and_after_a_half_close() {
                scenarios::packets(NAME, run);
            }

            #[test]
            fn a_killed_peer_is_noticed_after_what_it_sent() {
                scenarios::kill(NAME, run);
            }

            #[test]
            fn a_cancel_ends_calls_that_wait_on_either_side() {
                scenarios::cancel(NAME, run);
            }

            #[test]
            fn a_task_that_waits_uses_no_cpu() {
                scenarios::idle(NAME, run);
            }
        })+
    };
}

runtimes!(
    async_std,
    async_std_threads,
    compio,
    futures,
    glommio,
    glommio_polled,
    monoio,
    monoio_background,
    pollster,
    pollster_parked,
    smol,
    smol_parked,
    smol_threads,
    tokio,
    tokio_threads,
);
