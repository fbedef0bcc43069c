//! A second process that connects as it should and then breaks one rule of the region.
//!
//! It speaks the protocol as the specification says. In each test it follows the test's script,
//! whose numbers are hexadecimal. Whatever it does, the test gets an error that says what happened
//! and no packet that was not sent, and a channel next to it notices nothing.

use std::time::{Duration, Instant};

use wakering::{
    CloseReason, Driver, Endpoint, RecvTimeoutError, ShmError, TryRecvError, TrySendError,
    Violation,
};

use super::attacker::{Attacker, Ours, against_each};
use crate::common::raw_peer::{BELL, ENDS, HEAD, JUMP, PACKET, SNAPSHOT, TAKEN, WAITING, WANTS};
use crate::common::{self, fill_with, number, on_both_backends, packet, wait};

on_both_backends!(
    a_header_that_breaks_a_rule_ends_the_channel,
    endless_jumps_end_the_channel,
    headers_that_change_all_the_time_invent_no_packet,
    a_head_that_breaks_a_rule_ends_the_channel,
    a_batch_that_meets_a_bad_head_tells_what_was_sent,
    a_question_about_the_ring_believes_no_bad_head,
    unknown_ends_end_the_channel,
    unused_words_may_hold_anything,
    writes_to_our_own_words_do_not_change_what_we_know,
    two_ends_in_the_same_role_do_no_harm,
    a_header_that_is_taken_back_is_a_packet_or_none,
    a_hole_in_the_region_acts_as_a_write_of_zeros,
);

/// Connects the attacker to another end of ours in the same role.
fn again(attacker: &mut Attacker, driver: &Driver, ours: Ours) -> Endpoint {
    attacker.meet(driver, ours)
}

/// Asserts that every later call reports this violation.
fn assert_over(end: &Endpoint, violation: Violation) {
    let reason = CloseReason::Violation(violation);
    assert_eq!(end.close_reason(), Some(reason));
    assert_eq!(end.try_recv(), Err(TryRecvError::Closed(reason)));
    assert_eq!(wait("recv", end.recv()), None);
    assert_eq!(wait("closed", end.closed()), reason);
    match wait("send", end.send(packet(0, 8))) {
        Err(ShmError::Closed { reason: told, .. }) => assert_eq!(told, reason),
        other => panic!("{other:?}"),
    }
    assert!(!end.is_connected() || end.is_closed());
}

/// Returns a script that puts headers of packets of 1000 bytes at these offsets of the ring, and
/// `last` after them.
fn after(offsets: &[u64], last: (u64, u64)) -> String {
    // The last header is written first: nothing is visible before everything is there.
    let mut script = format!("put {:x} {:x}", last.0, last.1);
    for offset in offsets.iter().rev() {
        script += &format!("; put {offset:x} {:x}", PACKET | 1000);
    }
    script + "; ring"
}

fn a_header_that_breaks_a_rule_ends_the_channel(driver: &Driver) {
    const FOUR: [u64; 4] = [0, 1008, 2016, 3024];
    let unknown = [3 << 32, 5, u64::MAX, JUMP << 1, PACKET << 31, 1 << 63, 8];
    let mut cases: Vec<_> = unknown
        .into_iter()
        .map(|header| (&FOUR[..0], (0, header), Violation::UnknownRecord(header)))
        .collect();
    cases.extend([
        (&FOUR[..0], (0, PACKET | 1017), Violation::RecordTooLong(1017)),
        (&FOUR[..0], (0, PACKET | 0xffff_ffff), Violation::RecordTooLong(u32::MAX)),
        // A length equal to the ring's, and one that becomes 0 when 8 is added.
        (&FOUR[..1], (1008, PACKET | 4096), Violation::RecordTooLong(4096)),
        (&FOUR[..2], (2016, PACKET | 0xffff_fff8), Violation::RecordTooLong(0xffff_fff8)),
        // 64 bytes are left of the ring.
        (&FOUR[..], (4032, PACKET | 57), Violation::RecordOverEnd(57)),
        (&FOUR[..], (4032, PACKET | 1016), Violation::RecordOverEnd(1016)),
        (&FOUR[..0], (0, JUMP), Violation::JumpToNoPacket(0)),
        (&FOUR[..2], (2016, JUMP | 3000), Violation::JumpToNoPacket(3000)),
        (&FOUR[..2], (2016, JUMP | 3001), Violation::JumpAstray(3001)),
        (&FOUR[..2], (2016, JUMP | 4096), Violation::JumpAstray(4096)),
        (&FOUR[..2], (2016, JUMP | 0xffff_fff8), Violation::JumpAstray(0xffff_fff8)),
    ]);
    against_each(driver, "bad headers", |attacker, mut end, ours| {
        for (offsets, last, violation) in &cases {
            let waiting = std::thread::spawn({
                let script = after(offsets, *last);
                attacker.order(&script);
                let count = offsets.len();
                move || {
                    for _ in 0..count {
                        assert_eq!(wait("what was sent", end.recv()).unwrap(), [0; 1000][..]);
                    }
                    assert_eq!(wait("the end", end.recv()), None);
                    end
                }
            });
            end = common::join("the receiver", waiting);
            attacker.done();
            assert_over(&end, *violation);
            end = again(attacker, driver, ours);
        }
    });
}

fn endless_jumps_end_the_channel(driver: &Driver) {
    against_each(driver, "jumps", |attacker, mut end, ours| {
        // A lawful jump at the end of the ring, and another jump at its start.
        let words = ours.words().0;
        attacker.order(&format!(
            "{}; until {:x} fc0; put 0 {JUMP:x}; put fc0 {JUMP:x}; ring",
            after(&[0, 1008, 2016, 3024], (4032, 0)),
            words + TAKEN,
        ));
        for _ in 0..4 {
            assert_eq!(wait("what was sent", end.recv()).unwrap().len(), 1000);
        }
        assert_eq!(wait("the end", end.recv()), None);
        attacker.done();
        assert_over(&end, Violation::JumpToNoPacket(0));
        // Nothing but markers, again and again.
        end = again(attacker, driver, ours);
        attacker.order(&format!("flicker {JUMP:x} {JUMP:x} 50"));
        assert_eq!(wait("the end", end.recv()), None);
        attacker.done();
        assert_over(&end, Violation::JumpToNoPacket(0));
    });
}

fn headers_that_change_all_the_time_invent_no_packet(driver: &Driver) {
    let pairs = [
        (PACKET | 24, PACKET | 1017),
        (PACKET | 24, PACKET | 0xffff_ffff),
        (PACKET | 1016, PACKET | 24),
        (PACKET | 24, JUMP),
        (PACKET | 24, 0),
        (PACKET | 24, 3 << 32),
    ];
    against_each(driver, "headers that change", |attacker, mut end, ours| {
        for (one, other) in pairs {
            attacker.order(&format!("flicker {one:x} {other:x} 60"));
            let lawful = [one, other].map(|header| header.wrapping_sub(PACKET));
            let begin = Instant::now();
            // At the end, the ring may hold packets that follow one another in a circle.
            while begin.elapsed() < Duration::from_secs(1)
                && let Ok(packet) = end.recv_timeout(Duration::from_millis(500))
            {
                assert!(lawful.contains(&(packet.len() as u64)), "{}", packet.len());
            }
            attacker.done();
            match end.close_reason() {
                None => {}
                Some(CloseReason::Violation(
                    Violation::RecordTooLong(_)
                    | Violation::RecordOverEnd(_)
                    | Violation::JumpToNoPacket(_)
                    | Violation::UnknownRecord(_)
                    // The receiver slept, and was woken for nothing that it could still see.
                    | Violation::WakeFlood,
                )) => {}
                other => panic!("{other:?}"),
            }
            end = again(attacker, driver, ours);
        }
    });
}

fn a_head_that_breaks_a_rule_ends_the_channel(driver: &Driver) {
    against_each(driver, "bad heads", |attacker, mut end, ours| {
        let (our_words, theirs) = ours.words();
        let waiting = our_words + WAITING;
        for word in [HEAD, TAKEN] {
            let at = theirs + word;
            // Four packets of 504 bytes are 2048 in the ring.
            for (claims, violation) in [
                (vec![512 + 4], Violation::UnalignedHead(516)),
                (vec![1], Violation::UnalignedHead(1)),
                (vec![8192], Violation::HeadOvertook(8192)),
                (vec![u64::MAX - 7], Violation::HeadMovedBack(u64::MAX - 7)),
                (vec![1 << 63], Violation::HeadMovedBack(1 << 63)),
                (vec![2048, 512], Violation::HeadMovedBack(512)),
            ] {
                // The ring is full, and the sender sleeps.
                let mut sent = fill_with(&end, 504);
                for (round, claim) in claims.iter().enumerate() {
                    let (parks, last) = (end.stats().parks, round + 1 == claims.len());
                    let sender = std::thread::spawn(move || {
                        let result = wait("send", end.send(packet(sent, 504)));
                        (end, result)
                    });
                    // The script clears the sender's bit, so the sender looks, whatever it waited
                    // for.
                    attacker.say(&format!("set {at:x} {claim:x}; set32 {waiting:x} 0; ring"));
                    let (back, result) = common::join("the sender", sender);
                    end = back;
                    assert!(end.stats().parks >= parks);
                    if last {
                        let reason = CloseReason::Violation(violation);
                        let expected = ShmError::Closed { reason, sent: 0 };
                        assert_eq!(format!("{result:?}"), format!("{:?}", Err::<(), _>(expected)));
                    } else {
                        result.unwrap();
                        sent += 1 + fill_with(&end, 504);
                    }
                }
                assert_over(&end, violation);
                end = again(attacker, driver, ours);
            }
        }
    });
}

/// The room up to the ring's end is known; only the packet after that asks where the head is.
fn a_batch_that_meets_a_bad_head_tells_what_was_sent(driver: &Driver) {
    against_each(driver, "bad heads in a batch", |attacker, mut end, ours| {
        let at = ours.words().1 + HEAD;
        for (claim, violation) in
            [(516, Violation::UnalignedHead(516)), (8192, Violation::HeadOvertook(8192))]
        {
            end.try_send(packet(0, 504)).unwrap();
            attacker.say(&format!("set {at:x} {claim:x}"));
            let packets: Vec<_> = (1..20).map(|n| packet(n, 504)).collect();
            match wait("send_batch", end.send_batch(&packets)) {
                Err(ShmError::Closed { reason, sent }) => {
                    assert_eq!(reason, CloseReason::Violation(violation));
                    assert!(sent > 0);
                    assert_eq!(end.stats().packets_sent, 1 + sent as u64);
                }
                other => panic!("{other:?}"),
            }
            assert_over(&end, violation);
            end = again(attacker, driver, ours);
        }
    });
}

fn a_question_about_the_ring_believes_no_bad_head(driver: &Driver) {
    let questions: [fn(&Endpoint) -> usize; 2] = [Endpoint::queued_bytes, Endpoint::free_bytes];
    against_each(driver, "bad answers", |attacker, mut end, ours| {
        let at = ours.words().1 + TAKEN;
        for question in questions {
            for (claim, violation) in [
                (516, Violation::UnalignedHead(516)),
                (8192, Violation::HeadOvertook(8192)),
                (u64::MAX - 7, Violation::HeadMovedBack(u64::MAX - 7)),
            ] {
                end.try_send(packet(0, 504)).unwrap();
                assert_eq!(end.queued_bytes(), 512);
                attacker.say(&format!("set {at:x} {claim:x}"));
                assert_eq!(question(&end), 0, "believed {claim:#x}");
                assert_over(&end, violation);
                end = again(attacker, driver, ours);
            }
        }
    });
}

fn unknown_ends_end_the_channel(driver: &Driver) {
    against_each(driver, "bad ends", |attacker, mut end, ours| {
        let at = ours.words().1 + ENDS;
        for bits in [0x10, 0x8000_0000, 0xffff_ffff, 0x16_u32] {
            attacker.order(&format!("set32 {at:x} {bits:x}; ring"));
            assert_eq!(wait("the end", end.recv()), None);
            attacker.done();
            match end.close_reason() {
                Some(CloseReason::Violation(violation @ Violation::UnknownEnds(_))) => {
                    assert_over(&end, violation);
                }
                other => panic!("{other:?}"),
            }
            end = again(attacker, driver, ours);
        }
    });
}

/// Checks that the channel works: the other side echoes what it should.
fn assert_echoes(attacker: &mut Attacker, end: &Endpoint, count: u64) {
    attacker.order(&format!("echo {count:x}"));
    for n in 0..count {
        wait("send", end.send(packet(n, 100))).unwrap();
        assert_eq!(number(&wait("recv", end.recv()).unwrap()), n);
    }
    attacker.done();
    assert_eq!(end.close_reason(), None);
}

fn unused_words_may_hold_anything(driver: &Driver) {
    against_each(driver, "noise", |attacker, end, ours| {
        let (own, theirs) = ours.words();
        let script = [
            // The geometry, what is after it, and what is after the words.
            "noise 0 80".to_owned(),
            "noise 680 1000".to_owned(),
            // Between the words.
            format!("noise {:x} {:x}", own + 0x08, own + ENDS),
            format!("noise {:x} {:x}", theirs + 0x08, theirs + ENDS),
            format!("noise {:x} {:x}", theirs + HEAD + 8, theirs + TAKEN),
            format!("noise {:x} {:x}", theirs + TAKEN + 8, theirs + WANTS),
            // Words that only concern the attacker itself.
            format!("noise {:x} {:x}", theirs + WANTS, theirs + SNAPSHOT),
            format!("noise {:x} {:x}", theirs + SNAPSHOT, theirs + SNAPSHOT + 0x80),
            format!("or32 {:x} fffffffc", theirs + WAITING),
            format!("or32 {:x} fffffffc", own + WAITING),
            format!("set32 {:x} fffffff0", theirs + BELL),
            // A single spurious count of our bell is not too many.
            format!("set32 {:x} fffffffe", own + BELL),
        ];
        assert_echoes(attacker, &end, 20);
        attacker.say(&script.join("; "));
        assert_echoes(attacker, &end, 500);
        assert_eq!((end.max_packet(), end.ring_bytes()), (1016, 4096));
    });
}

fn writes_to_our_own_words_do_not_change_what_we_know(driver: &Driver) {
    against_each(driver, "noise in our words", |attacker, end, ours| {
        let own = ours.words().0;
        assert_echoes(attacker, &end, 20);
        // Except `head` and `taken`, which the attacker itself reads.
        let ends = end.stats().packets_sent;
        attacker.say(&format!(
            "noise {:x} {:x}; noise {:x} {:x}; or32 {:x} f7",
            own + WANTS,
            own + SNAPSHOT,
            own + SNAPSHOT,
            own + SNAPSHOT + 0x80,
            own + ENDS,
        ));
        // The words now look as if we had closed. We have not, and only the attacker is confused.
        assert_eq!(end.close_reason(), None);
        assert_eq!(end.stats().packets_sent, ends);
        end.try_send(packet(1, 8)).unwrap();
        assert_eq!(end.try_recv(), Err(TryRecvError::Empty));
        end.cancel();
        assert_eq!(end.close_reason(), Some(CloseReason::Cancelled));
    });
}

fn two_ends_in_the_same_role_do_no_harm(driver: &Driver) {
    against_each(driver, "the same role", |attacker, end, ours| {
        let own = ours.words().0;
        let ring = if ours == Ours::Face { 0x1000 } else { 0x2000 };
        let sent = fill_with(&end, 100);
        // The attacker takes our ring and our words for its own: it sends there, and takes what is
        // not there.
        attacker.say(&format!(
            "noise {ring:x} {:x}; set {:x} 200; set {:x} 200; or32 {:x} 3; ring",
            ring + 0x1000,
            own + HEAD,
            own + TAKEN,
            own + WAITING,
        ));
        assert_eq!(end.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        assert!(matches!(end.try_send(packet(sent, 100)), Err(TrySendError::Full(_))));
        assert_eq!(end.close_reason(), None);
    });
}

fn a_header_that_is_taken_back_is_a_packet_or_none(driver: &Driver) {
    against_each(driver, "headers taken back", |attacker, end, _| {
        attacker.order(&format!("put 0 {:x}; put 0 0; ring", PACKET | 24));
        match end.recv_timeout(Duration::from_millis(50)) {
            Ok(packet) => assert_eq!(packet, [0; 24][..]),
            Err(error) => assert_eq!(error, RecvTimeoutError::Timeout),
        }
        attacker.done();
        assert_eq!(end.recv_timeout(Duration::from_millis(10)), Err(RecvTimeoutError::Timeout));
        assert_eq!(end.close_reason(), None);
    });
}

fn a_hole_in_the_region_acts_as_a_write_of_zeros(driver: &Driver) {
    against_each(driver, "holes", |attacker, end, ours| {
        assert_echoes(attacker, &end, 20);
        // What was sent and not read is gone, and every word is 0 again.
        let sent = fill_with(&end, 100);
        attacker.say("send 3; hole 0 3000; ring");
        assert_eq!(end.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
        // The attacker's `head` is 0 again: it moved back.
        let full = end.try_send(packet(sent, 100));
        assert!(full.is_err(), "{full:?}");
        let reason = end.close_reason();
        let moved_back = CloseReason::Violation(Violation::HeadMovedBack(0));
        assert!(reason.is_none() || reason == Some(moved_back), "{ours:?}: {reason:?}");
    });
}
