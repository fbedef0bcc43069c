//! An engine that sends back what comes.

use std::io::{self, Write};
use std::pin::pin;
use std::task::Poll;

use futures::future::Either;
use futures::stream::{FuturesUnordered, StreamExt};
use wakering::{SpscFace, SpscListener};

use super::Arguments;
use crate::failure::{Failure, Unserved};
use crate::json::Object;
use crate::{say, text};

/// What was done for one application.
struct Served {
    pid: Option<i32>,
    packets: u64,
    bytes: u64,
    outcome: Result<(), Failure>,
}

/// Serves applications, all of them at once, on this thread.
pub(super) fn serve(arguments: &Arguments) -> Result<(), Failure> {
    let driver = arguments.backend.driver().build()?;
    let builder = SpscListener::builder().driver(&driver).send_timeout(None);
    let listener = builder.bind(&arguments.name)?;
    driver.block_on(accept(listener, arguments))
}

async fn accept(listener: SpscListener, arguments: &Arguments) -> Result<(), Failure> {
    let mut listener = pin!(listener);
    let mut running = FuturesUnordered::new();
    let (mut accepted, mut cut_off, mut unserved) = (0, 0, Unserved::default());
    loop {
        let accepts = arguments.sessions.is_none_or(|sessions| accepted < sessions);
        if !accepts && running.is_empty() {
            break;
        }
        let event = std::future::poll_fn(|cx| {
            if accepts && let Poll::Ready(Some(face)) = listener.poll_next_unpin(cx) {
                return Poll::Ready(Either::Left(face));
            }
            match running.poll_next_unpin(cx) {
                Poll::Ready(Some(served)) => Poll::Ready(Either::Right(served)),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        });
        match event.await {
            Either::Left(Ok(face)) => {
                running.push(echo(face));
                accepted += 1;
            }
            Either::Left(Err(error)) => unserved.report(error)?,
            Either::Right(served) => {
                cut_off += u64::from(served.outcome.is_err());
                served.report(arguments.json)?;
            }
        }
    }
    if cut_off > 0 {
        let served = text::count(accepted, "application");
        return Err(Failure::new(format!("{cut_off} of {served} had no orderly end")));
    }
    Ok(())
}

async fn echo(face: SpscFace) -> Served {
    // Whatever goes wrong must not look like the end of the answers.
    face.cancel_on_drop(true);
    let outcome = async {
        while let Some(packet) = face.recv().await {
            face.send(packet).await?;
        }
        match face.finished() {
            Some(Err(reason)) => Err(reason.into()),
            Some(Ok(())) | None => Ok(()),
        }
    };
    let outcome = outcome.await;
    if outcome.is_ok() {
        face.close();
    }
    let (stats, pid) = (face.stats(), face.peer_credentials().map(|peer| peer.pid));
    Served { pid, packets: stats.packets_sent, bytes: stats.bytes_sent, outcome }
}

impl Served {
    fn report(&self, json: bool) -> Result<(), Failure> {
        let error = self.outcome.as_ref().err();
        if json {
            let object = Object::new()
                .with("pid", self.pid)
                .with("packets", self.packets)
                .with("bytes", self.bytes)
                .with("error", error.map(ToString::to_string));
            return say(&object.text());
        }
        let pid = self.pid.unwrap_or_default();
        let passed = text::count(self.packets, "packet");
        say(&format!("process {pid}: {passed} sent back"))?;
        if let Some(error) = error {
            let _ = writeln!(io::stderr(), "process {pid}: {error}");
        }
        Ok(())
    }
}
