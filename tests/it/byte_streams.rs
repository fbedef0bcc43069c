//! The halves as streams of bytes.

use std::io::ErrorKind;

use bytes::Bytes;
use futures::io::{self, BufWriter, Cursor};
use futures::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, FutureExt, SinkExt, TryStreamExt};
use wakering::{CloseReason, Driver, Endpoint, PacketReader, PacketWriter, ShmError};

use crate::common::{
    SMALL, both_roles, eventually, fill, join, number, on_both_backends, packet, wait,
};

on_both_backends!(
    all_bytes_come_in_order_whatever_their_pieces,
    a_write_takes_at_most_a_packet,
    one_write_is_held_back_until_there_is_room,
    a_close_is_a_half_close_after_what_was_held_back,
    a_buffer_around_it_makes_packets_of_small_writes,
    lines_may_cross_packets_and_empty_packets_are_skipped,
    a_stream_that_was_cut_off_never_ends_without_an_error,
    a_receiver_that_has_told_its_end_tells_the_reader_the_same,
    a_write_to_a_peer_that_is_gone_fails,
    what_is_inside_comes_out,
);

/// Returns bytes of which each differs from those near it.
fn body(len: u32) -> Vec<u8> {
    (0..len).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

fn writer_and_reader(here: Endpoint, there: Endpoint) -> (PacketWriter, PacketReader) {
    (here.into_split().0.into_async_write(), there.into_split().1.into_async_read())
}

fn reason(error: &io::Error) -> Option<CloseReason> {
    match error.get_ref()?.downcast_ref()? {
        ShmError::Closed { reason, .. } => Some(*reason),
        _ => None,
    }
}

fn all_bytes_come_in_order_whatever_their_pieces(driver: &Driver) {
    for (write, read) in [(1, 1), (7, 4096), (1016, 1016), (1017, 333), (100_000, 64)] {
        let sent = body(if write == 1 { 2000 } else { 100_000 });
        both_roles(driver, SMALL, None, |here, there| {
            let (mut writer, mut reader) = writer_and_reader(here, there);
            let bytes = sent.clone();
            let writing = std::thread::spawn(move || {
                wait("write", async {
                    for piece in bytes.chunks(write) {
                        writer.write_all(piece).await?;
                    }
                    writer.close().await
                })
            });
            let mut received = Vec::new();
            let mut piece = vec![0; read];
            while let len @ 1.. = wait("read", reader.read(&mut piece)).unwrap() {
                received.extend_from_slice(&piece[..len]);
            }
            join("writing", writing).unwrap();
            assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
            assert_eq!(wait("read", reader.read(&mut piece)).unwrap(), 0);
        });
    }
}

fn a_write_takes_at_most_a_packet(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let bytes = body(1000);
        let max = here.max_packet();
        let mut writer = here.into_split().0.into_async_write();
        assert_eq!(wait("write", writer.write(&[])).unwrap(), 0);
        assert_eq!(wait("write", writer.write(&bytes)).unwrap(), max);
        assert_eq!(wait("write", writer.write(&bytes[max..max + 5])).unwrap(), 5);
        assert_eq!(there.try_recv().unwrap(), bytes[..max]);
        assert_eq!(there.try_recv().unwrap(), bytes[max..max + 5]);
        assert!(there.is_empty());
    });
}

fn one_write_is_held_back_until_there_is_room(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut writer = here.into_split().0.into_async_write();
        assert_eq!(wait("write", writer.write(&packet(filled, 8))).unwrap(), 8);
        assert!(writer.write(b"more").now_or_never().is_none());
        assert!(writer.flush().now_or_never().is_none());
        assert_eq!(number(&there.try_recv().unwrap()), 0);
        eventually("the flush ends", || writer.flush().now_or_never().is_some());
        for n in 1..=filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
        assert!(there.is_empty());
    });
}

fn a_close_is_a_half_close_after_what_was_held_back(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let (tx, mut rx) = here.into_split();
        let mut writer = tx.into_async_write();
        wait("write", writer.write_all(&packet(filled, 8))).unwrap();
        let closing = std::thread::spawn(move || {
            wait("close", writer.close()).unwrap();
            let error = wait("write", writer.write(b"late")).unwrap_err();
            assert_eq!(reason(&error), Some(CloseReason::Local));
            writer
        });
        for n in 0..=filled {
            assert_eq!(number(&there.recv_blocking().unwrap()), n);
        }
        assert_eq!(there.recv_blocking(), None);
        assert_eq!(there.finished(), Some(Ok(())));
        there.try_send(packet(1, 8)).unwrap();
        assert_eq!(number(&rx.recv_blocking().unwrap()), 1);
        drop(join("closing", closing));
    });
}

fn a_buffer_around_it_makes_packets_of_small_writes(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let writer = here.into_split().0.into_async_write();
        let mut writer = BufWriter::with_capacity(1000, writer);
        for _ in 0..100 {
            wait("write", writer.write_all(b"small")).unwrap();
        }
        assert!(there.is_empty());
        wait("flush", writer.flush()).unwrap();
        assert_eq!(there.try_recv().unwrap(), "small".repeat(100));
        assert!(there.is_empty());
    });
}

fn lines_may_cross_packets_and_empty_packets_are_skipped(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        for packet in ["", "one\nt", "", "", "w", "o\n", "three", ""] {
            here.try_send(packet.into()).unwrap();
        }
        drop(here);
        let lines = there.into_split().1.into_async_read().lines();
        let lines: Vec<String> = wait("lines", lines.try_collect()).unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
    });
}

fn a_stream_that_was_cut_off_never_ends_without_an_error(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let canceller = here.canceller();
        let (mut writer, mut reader) = writer_and_reader(here, there);
        wait("write", writer.write_all(b"a part")).unwrap();
        let mut part = [0; 3];
        wait("read", reader.read_exact(&mut part)).unwrap();
        assert_eq!(&part, b"a p");
        canceller.cancel();
        // What was taken out before still comes.
        wait("read", reader.read_exact(&mut part)).unwrap();
        assert_eq!(&part, b"art");
        for _ in 0..3 {
            let error = wait("read", reader.read(&mut part)).unwrap_err();
            assert_eq!(reason(&error), Some(CloseReason::Cancelled));
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            let error = wait("read", reader.fill_buf()).map(<[u8]>::len).unwrap_err();
            assert_eq!(reason(&error), Some(CloseReason::Cancelled));
        }
        assert!(wait("read", reader.read_to_end(&mut Vec::new())).is_err());
    });
}

fn a_receiver_that_has_told_its_end_tells_the_reader_the_same(driver: &Driver) {
    for is_orderly in [true, false] {
        both_roles(driver, SMALL, None, |here, there| {
            here.cancel_on_drop(!is_orderly);
            let mut rx = there.into_split().1;
            drop(here);
            assert_eq!(rx.recv_blocking(), None);
            let mut reader = rx.into_async_read();
            let read = wait("read", reader.read(&mut [0; 8]));
            assert_eq!(read.is_ok(), is_orderly, "{read:?}");
        });
    }
}

fn a_write_to_a_peer_that_is_gone_fails(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut writer, reader) = writer_and_reader(here, there);
        drop(reader);
        let error = wait("write", writer.write(b"nobody reads this")).unwrap_err();
        assert_eq!(
            (reason(&error), error.kind()),
            (Some(CloseReason::Peer), ErrorKind::BrokenPipe)
        );
    });
}

fn what_is_inside_comes_out(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (mut writer, mut reader) = writer_and_reader(here, there);
        let copied = io::copy(Cursor::new("in two parts"), &mut writer);
        assert_eq!(wait("copy", copied).unwrap(), 12);
        wait("read", reader.read_exact(&mut [0; 7])).unwrap();
        assert_eq!(reader.buffer(), b"parts");
        let (mut tx, mut rx) = (writer.into_inner(), reader.into_inner());
        wait("send", SinkExt::send(&mut tx, Bytes::from_static(b"a packet"))).unwrap();
        assert_eq!(rx.recv_blocking().unwrap(), "a packet");
    });
}
