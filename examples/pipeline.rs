//! Halves are sinks and streams: packets go through a filter from one face to another, and the end
//! of the source reaches the far end.
//!
//! ```text
//! producer ==> face one -> filter -> face two ==> consumer
//! ```

#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::future::ready;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt, join, stream};
use wakering::{Driver, Receiver, Sender, ShmError, SpscFace, SpscHandle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const NUMBERS: u64 = 10_000;

fn main() -> Result<()> {
    let driver = Driver::new()?;
    let channel = || {
        let (face, descriptor) = SpscFace::builder().driver(&driver).ring_bytes(8192).pair()?;
        Ok::<_, ShmError>((face, SpscHandle::builder().driver(&driver).from_fd(descriptor)?))
    };
    let ((one, producer), (two, consumer)) = (channel()?, channel()?);
    // Each channel is used in one direction. The halves of the other direction are kept.
    let (to_engine, _unused) = wakering::Endpoint::from(producer).into_split();
    let (_answers, from_producer) = wakering::Endpoint::from(one).into_split();
    let (to_consumer, _questions) = wakering::Endpoint::from(two).into_split();
    let (_acks, from_engine) = wakering::Endpoint::from(consumer).into_split();

    let (produced, filtered, consumed) = driver.block_on(async {
        join!(produce(to_engine), filter(from_producer, to_consumer), consume(from_engine))
    });
    produced?;
    filtered?;
    let (count, sum) = consumed?;
    assert_eq!(count, NUMBERS / 2);
    assert_eq!(sum, (0..NUMBERS).step_by(2).sum());
    println!("{count} of {NUMBERS} packets passed the filter, then came the end");
    Ok(())
}

async fn produce(mut sender: Sender) -> std::result::Result<(), ShmError> {
    let mut numbers =
        stream::iter(0..NUMBERS).map(|number| Ok(number.to_le_bytes().to_vec().into()));
    sender.send_all(&mut numbers).await?;
    // This is the half-close: all that was sent arrives, then the end.
    sender.close().await
}

/// Fails with the receiver's last `Err` if the source was cut off. Otherwise it ends when the
/// source does, and closes its sink.
async fn filter(receiver: Receiver, sender: Sender) -> std::result::Result<(), ShmError> {
    receiver.try_filter(|packet| ready(number(packet).is_multiple_of(2))).forward(sender).await
}

async fn consume(mut receiver: Receiver) -> std::result::Result<(u64, u64), ShmError> {
    let (mut count, mut sum) = (0, 0);
    while let Some(packet) = receiver.try_next().await? {
        count += 1;
        sum += number(&packet);
    }
    // After a stream, this check is not needed: it would have ended with an `Err` if packets were
    // lost.
    assert_eq!(receiver.finished(), Some(Ok(())));
    Ok((count, sum))
}

fn number(packet: &Bytes) -> u64 {
    u64::from_le_bytes(packet[..].try_into().expect("a number has eight bytes"))
}
