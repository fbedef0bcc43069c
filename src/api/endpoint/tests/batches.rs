//! What a batch costs besides its copies, counted and not timed.

use bytes::{BufMut, Bytes};
use futures::{FutureExt, SinkExt, StreamExt};

use super::{drivers, pair};
use crate::shm::layout::Side;
use crate::sync::Ordering;
use crate::sys::op_counts::counts;

const COUNT: usize = 64;
/// Of which an eighth is more than the batch.
const RING: usize = 64 << 10;

fn packets() -> Vec<Bytes> {
    (0..COUNT).map(|number| Bytes::from(vec![u8::try_from(number).unwrap(); 64])).collect()
}

/// The steps of `work`, as publications (with a fence each), other fences, looks at the peer's bell
/// and returns of room.
fn steps<T>(work: impl FnOnce() -> T) -> (T, [usize; 4]) {
    counts::of(work)
}

#[test]
fn a_batch_is_published_once_and_looks_once() {
    for driver in drivers() {
        let (face, handle) = pair(&driver, RING);
        let packets = packets();
        for blocks in [false, true] {
            let (sent, sending) = steps(|| match blocks {
                true => face.send_batch_blocking(&packets),
                false => face.send_batch(&packets).now_or_never().unwrap(),
            });
            sent.unwrap();
            assert_eq!(sending, [1, 0, 1, 0]);
            let mut received = Vec::new();
            // More than there are: that it finds no more is no reason to look again.
            let (taken, receiving) = steps(|| match blocks {
                true => handle.recv_batch_blocking(&mut received, 2 * COUNT),
                false => handle.recv_batch(&mut received, 2 * COUNT).now_or_never().unwrap(),
            });
            assert_eq!((taken, receiving), (COUNT, [0, 0, 1, 1]));
            assert_eq!(received, packets);
        }
        assert_eq!((handle.stats().parks, face.stats().wakes_sent), (0, 0));
    }
}

#[test]
fn a_long_batch_is_published_by_eighths_of_the_ring() {
    for driver in drivers() {
        // An eighth is 512 bytes, which eight records are the first to exceed.
        let (face, handle) = pair(&driver, 4096);
        let packets = &packets()[..40];
        let (sent, sending) = steps(|| face.send_batch(packets).now_or_never());
        sent.unwrap().unwrap();
        assert_eq!(sending, [5, 0, 5, 0]);
        let mut received = Vec::new();
        let receive = || handle.recv_batch(&mut received, COUNT).now_or_never();
        let (taken, [_, _, _, returns]) = steps(receive);
        assert_eq!(taken, Some(40));
        assert!((5..=6).contains(&returns), "{returns}");
        assert_eq!(received, packets);
    }
}

#[test]
fn each_start_send_publishes_and_a_flush_has_nothing_left_to_do() {
    for driver in drivers() {
        let (face, handle) = pair(&driver, RING);
        let ((mut tx, _face_rx), (_handle_tx, mut rx)) = (face.into_split(), handle.into_split());
        let packets = packets();
        let feed = async {
            for packet in &packets {
                tx.feed(packet.clone()).await?;
            }
            Ok::<_, crate::ShmError>(())
        };
        let (fed, feeding) = steps(|| feed.now_or_never());
        fed.unwrap().unwrap();
        assert_eq!(feeding, [COUNT, 0, COUNT, 0]);
        let (flushed, flushing) = steps(|| SinkExt::<Bytes>::flush(&mut tx).now_or_never());
        flushed.unwrap().unwrap();
        assert_eq!(flushing, [0; 4]);

        // A chunk that is full has no more to do with the bell than its packets have.
        let half = COUNT / 2;
        let mut chunks = rx.by_ref().ready_chunks(half);
        let (chunk, receiving) = steps(|| chunks.next().now_or_never());
        let mut received = chunk.flatten().unwrap();
        assert_eq!((received.len(), receiving), (half, [0, 0, half, half]));
        assert_eq!(rx.stats().parks, 0);

        // One that is not has parked before it came, so the next packet wakes somebody who is
        // awake.
        let mut chunks = rx.by_ref().ready_chunks(COUNT);
        let (chunk, [_, fences, _, returns]) = steps(|| chunks.next().now_or_never());
        received.extend(chunk.flatten().unwrap());
        assert_eq!((fences, returns, rx.stats().parks), (1, half, 1));
        assert_eq!(received.into_iter().map(Result::unwrap).collect::<Vec<_>>(), packets);
        tx.try_send(packets[0].clone()).unwrap();
        assert_eq!(tx.stats().wakes_sent, 1);
    }
}

/// Tools read the counts of a busy end from the region, whatever kind of call keeps it busy.
#[test]
fn the_snapshot_is_at_most_a_share_behind_batches_in_place() {
    for driver in drivers() {
        let (face, handle) = pair(&driver, RING);
        let region = face.channel().region().clone();
        let ((mut tx, _receiver), (_sender, mut rx)) = (face.into_split(), handle.into_split());
        let mut sent = 0;
        for _ in 0..2 * RING / (COUNT * 72) {
            let mut batch = tx.batch();
            for packet in packets() {
                let mut grant = batch.try_reserve(packet.len()).unwrap();
                grant.put_slice(&packet);
                grant.commit().unwrap();
                sent += 1;
            }
            batch.publish().unwrap();
            drop(batch);
            let written = region.side(Side::Face).snapshot.0.packets_sent.load(Ordering::Relaxed);
            let share = u64::try_from(RING / 8 / 72).unwrap();
            assert!(written + share + 1 >= sent, "{written} of {sent} packets");
            for _ in 0..COUNT {
                drop(rx.try_recv_ref().unwrap());
            }
            let read =
                region.side(Side::Handle).snapshot.0.packets_received.load(Ordering::Relaxed);
            assert!(read + share + 1 >= sent, "{read} of {sent} packets");
        }
    }
}
