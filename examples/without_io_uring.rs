//! Runs a command, and all that it starts, without io_uring, as in many containers. This shows how
//! your program behaves there.
//!
//!     cargo run --example without_io_uring -- EPERM cargo test
//!
//! `io_uring_setup` fails with `EPERM`, as in a container's filter or with
//! `kernel.io_uring_disabled`, or with `ENOSYS`, as on an old kernel. Without arguments, the
//! example refuses io_uring to itself, and shows that only the backend is different.

#[path = "../tests/common/seccomp.rs"]
mod seccomp;

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use wakering::{Backend, Driver, ShmError, SpscFace, SpscHandle};

use seccomp::Refuse;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            seccomp::refuse(&[Refuse::io_uring_setup(Errno::PERM)])?;
            Ok(demonstrate()?)
        }
        [errno, command, arguments @ ..] => {
            let errno = match errno.as_str() {
                "EPERM" => Errno::PERM,
                "ENOSYS" => Errno::NOSYS,
                other => return Err(format!("EPERM or ENOSYS, not {other}").into()),
            };
            seccomp::refuse(&[Refuse::io_uring_setup(errno)])?;
            // This returns only if it fails.
            Err(Command::new(command).args(arguments).exec().into())
        }
        _ => Err("usage: without_io_uring [EPERM|ENOSYS COMMAND [ARGUMENTS]]".into()),
    }
}

#[allow(clippy::print_stdout, reason = "it is what the example is for")]
fn demonstrate() -> Result<(), ShmError> {
    let driver = Driver::new()?;
    println!("the driver waits by {}", driver.backend());
    assert_eq!(driver.backend(), Backend::Epoll);
    let (face, descriptor) = SpscFace::builder().driver(&driver).pair()?;
    let handle = SpscHandle::builder().driver(&driver).from_fd(descriptor)?;
    let (sent, received) =
        driver.block_on(async { futures::join!(face.send("as ever".into()), handle.recv()) });
    sent?;
    assert_eq!(received.as_deref(), Some(&b"as ever"[..]));
    println!("a packet went through");
    Ok(())
}
