//! A channel to a child that looks nothing up by name: it only gets a descriptor, as in a sandbox.

#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use bytes::Bytes;
use wakering::{CloseReason, SpscFace, SpscHandle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Set in the child: the number of the descriptor that it inherited.
const INHERITED: &str = "WAKERING_INHERITED";

fn main() -> Result<()> {
    match std::env::var(INHERITED) {
        Ok(number) => child(number.parse()?),
        Err(_) => parent(),
    }
}

fn parent() -> Result<()> {
    let (face, descriptor) = SpscFace::pair()?;
    // A packet can be sent before the child exists.
    face.try_send("first".into())?;

    // Lets the descriptor survive the exec. No other thread may start a process at this moment,
    // because that process would inherit it too.
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::empty())?;
    let mut child = Command::new(std::env::current_exe()?)
        .env_clear()
        .env(INHERITED, descriptor.as_raw_fd().to_string())
        .spawn()?;
    // Without this, the parent would never learn of the child's death.
    drop(descriptor);

    pollster::block_on(async {
        assert_eq!(face.recv().await.unwrap(), "FIRST");
        for word in ["second", "third"] {
            face.send(word.into()).await?;
            assert_eq!(face.recv().await.unwrap(), word.to_uppercase());
        }
        face.send("exit".into()).await
    })?;
    // The child exits without closing its end.
    assert_eq!(pollster::block_on(face.closed()), CloseReason::PeerDied);
    assert!(child.wait()?.success());
    println!("the child answered {} packets and was seen to exit", face.stats().packets_received);
    Ok(())
}

fn child(descriptor: i32) -> Result<()> {
    // SAFETY: the parent has passed this descriptor on, and nothing else in this process uses it.
    #[allow(unsafe_code, reason = "a number from the environment becomes a descriptor")]
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let handle = SpscHandle::from_fd(descriptor)?;
    while let Some(packet) = handle.recv_blocking() {
        if packet == "exit" {
            std::process::exit(0);
        }
        handle.send_blocking(Bytes::from(packet.to_ascii_uppercase()))?;
    }
    Err("the parent closed its end".into())
}
