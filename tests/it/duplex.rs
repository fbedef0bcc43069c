//! Both directions in one value.

use bytes::Bytes;
use futures::stream::FusedStream;
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt, TryStreamExt};
use wakering::{CloseReason, Driver, Duplex, Endpoint, ShmError};

use crate::common::{
    SMALL, both_roles, eventually, fill, join, length, number, on_both_backends, packet, wait,
};

on_both_backends!(
    a_framework_of_sinks_and_streams_serves_requests,
    both_directions_flow_at_once_from_two_tasks,
    closing_the_sink_ends_one_direction,
    dropping_it_ends_both_directions_at_once,
    taken_apart_it_ends_each_direction_by_itself,
    dropping_it_with_a_packet_for_which_there_is_no_room_cancels,
    cancel_on_drop_holds_for_both_directions,
    the_halves_of_two_ends_come_back,
    halves_that_were_put_together_go_on,
    an_end_that_loses_packets_is_an_error_once,
);

/// Serves requests over any transport.
async fn serve<T, E>(mut transport: T) -> Result<u64, E>
where
    T: Stream<Item = Result<Bytes, E>> + Sink<Bytes, Error = E> + Unpin,
{
    let mut served = 0;
    while let Some(request) = transport.try_next().await? {
        transport.send(request).await?;
        served += 1;
    }
    transport.close().await?;
    Ok(served)
}

fn a_framework_of_sinks_and_streams_serves_requests(driver: &Driver) {
    const REQUESTS: u64 = 2000;
    both_roles(driver, SMALL, None, |here, there| {
        let server = std::thread::spawn(|| wait("serve", serve(there.into_duplex())));
        let mut client = here.into_duplex();
        wait("client", async {
            for n in 0..REQUESTS {
                client.send(packet(n, length(n))).await.unwrap();
                let answer = client.next().await.unwrap().unwrap();
                assert_eq!((number(&answer), answer.len()), (n, length(n)));
            }
            client.close().await.unwrap();
            assert!(client.next().await.is_none() && client.is_terminated());
        });
        assert_eq!(join("server", server).unwrap(), REQUESTS);
        assert_eq!(client.finished(), Some(Ok(())));
        assert!(client.is_closed());
    });
}

fn both_directions_flow_at_once_from_two_tasks(driver: &Driver) {
    const PACKETS: u64 = 10_000;
    both_roles(driver, SMALL, None, |here, there| {
        let (sink, mut stream) = here.into_duplex().split();
        let sending = std::thread::spawn(move || {
            let packets = futures::stream::iter((0..PACKETS).map(|n| Ok(packet(n, length(n)))));
            wait("forward", packets.forward(sink))
        });
        let echoing = std::thread::spawn(|| {
            let (tx, rx) = there.into_split();
            wait("echo", rx.forward(tx))
        });
        wait("stream", async {
            for n in 0..PACKETS {
                assert_eq!(number(&stream.next().await.unwrap().unwrap()), n);
            }
            assert!(stream.next().await.is_none());
        });
        join("sending", sending).unwrap();
        join("echoing", echoing).unwrap();
    });
}

fn closing_the_sink_ends_one_direction(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let mut duplex = here.into_duplex();
        wait("send", duplex.send(packet(0, 8))).unwrap();
        wait("close", duplex.close()).unwrap();
        assert_eq!(number(&there.recv_blocking().unwrap()), 0);
        assert_eq!(there.recv_blocking(), None);
        assert_eq!(there.finished(), Some(Ok(())));
        assert!(!there.is_closed() && !duplex.is_closed());
        there.try_send(packet(7, 8)).unwrap();
        assert_eq!(number(&wait("next", duplex.next()).unwrap().unwrap()), 7);
    });
}

fn dropping_it_ends_both_directions_at_once(driver: &Driver) {
    for _ in 0..100 {
        both_roles(driver, SMALL, None, |here, there| {
            let mut duplex = here.into_duplex();
            wait("send", duplex.send(packet(0, 8))).unwrap();
            let receiving = std::thread::spawn(move || {
                assert_eq!(number(&there.recv_blocking().unwrap()), 0);
                assert_eq!(there.recv_blocking(), None);
                // Whoever sees one end sees the other.
                assert_eq!(there.close_reason(), Some(CloseReason::Peer));
                assert_eq!(there.finished(), Some(Ok(())));
            });
            drop(duplex);
            join("receiving", receiving);
        });
    }
}

fn taken_apart_it_ends_each_direction_by_itself(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let (tx, mut rx) = here.into_duplex().into_split();
        drop(tx);
        assert_eq!(there.recv_blocking(), None);
        assert!(!there.is_closed());
        there.try_send(packet(1, 8)).unwrap();
        assert_eq!(number(&rx.recv_blocking().unwrap()), 1);
        drop(rx);
        assert_eq!(wait("closed", there.closed()), CloseReason::Peer);
    });
}

fn dropping_it_with_a_packet_for_which_there_is_no_room_cancels(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let filled = fill(&here);
        let mut duplex = here.into_duplex();
        wait("feed", duplex.feed(packet(filled, 8))).unwrap();
        drop(duplex);
        assert_eq!(wait("closed", there.closed()), CloseReason::Cancelled);
    });
}

fn cancel_on_drop_holds_for_both_directions(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let duplex = here.into_duplex();
        duplex.cancel_on_drop(true);
        drop(duplex);
        assert_eq!(there.recv_blocking(), None);
        assert_eq!(there.finished(), Some(Err(CloseReason::Cancelled)));
    });
    both_roles(driver, SMALL, None, |here, there| {
        let mut duplex = here.into_duplex();
        duplex.cancel_on_drop(true);
        wait("close", duplex.close()).unwrap();
        drop(duplex);
        assert_eq!(there.recv_blocking(), None);
        assert_eq!(there.finished(), Some(Ok(())));
        assert_eq!(there.close_reason(), Some(CloseReason::Peer));
    });
}

fn the_halves_of_two_ends_come_back(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let ((here_tx, here_rx), (there_tx, there_rx)) = (here.into_split(), there.into_split());
        let refused = Duplex::reunite(here_tx, there_rx).unwrap_err();
        assert!(refused.to_string().contains("same end"), "{refused}");
        let (here_tx, there_rx) = refused.into_inner();
        let mut here = Duplex::reunite(here_tx, here_rx).unwrap();
        let mut there = Duplex::reunite(there_tx, there_rx).unwrap();
        wait("send", here.send(packet(3, 8))).unwrap();
        assert_eq!(number(&wait("next", there.next()).unwrap().unwrap()), 3);
        drop(here);
        assert_eq!(there.close_reason(), Some(CloseReason::Peer));
    });
}

fn halves_that_were_put_together_go_on(driver: &Driver) {
    both_roles(driver, SMALL, None, |here: Endpoint, there| {
        let filled = fill(&here);
        let (mut tx, rx) = here.into_split();
        // Held back, and still there after both changes.
        wait("feed", tx.feed(packet(filled, 8))).unwrap();
        let duplex = Duplex::reunite(tx, rx).unwrap();
        assert_eq!(duplex.stats().packets_sent, filled);
        let (tx, rx) = duplex.into_split();
        let mut duplex = Duplex::reunite(tx, rx).unwrap();
        assert!(duplex.flush().now_or_never().is_none());
        assert_eq!(number(&there.try_recv().unwrap()), 0);
        eventually("the flush ends", || duplex.flush().now_or_never().is_some());
        for n in 1..=filled {
            assert_eq!(number(&there.try_recv().unwrap()), n);
        }
    });
}

fn an_end_that_loses_packets_is_an_error_once(driver: &Driver) {
    both_roles(driver, SMALL, None, |here, there| {
        let mut duplex = here.into_duplex();
        there.try_send(packet(0, 8)).unwrap();
        there.cancel();
        let error = wait("next", duplex.next()).unwrap().unwrap_err();
        let reason = CloseReason::Cancelled;
        assert!(matches!(error, ShmError::Closed { reason: told, .. } if told == reason));
        assert!(wait("next", duplex.next()).is_none() && duplex.is_terminated());
        assert!(wait("send", duplex.send(packet(1, 8))).is_err());
        assert_eq!(duplex.close_reason(), Some(reason));
    });
}
