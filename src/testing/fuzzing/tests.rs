//! The seeds of the fuzzers, and what they found.

use std::path::Path;

/// How many seeds a target gets.
const SEEDS: u64 = 60;

/// Returns the same numbers each time (xorshift).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    std::iter::repeat_with(byte).take(len).collect()
}

/// Runs a target over its seeds. If `WAKERING_SEEDS` is set to a directory, also writes them there,
/// in a folder with the target's name, for the fuzzer to begin with.
fn replay(target: &str, run: fn(&[u8])) {
    let directory = std::env::var_os("WAKERING_SEEDS").map(|path| Path::new(&path).join(target));
    for seed in 0..SEEDS {
        let mut bytes = noise(seed + 1, 40 + usize::try_from(seed).unwrap() * 17);
        // All roles and settings.
        bytes[0] = u8::try_from(seed).unwrap();
        if let Some(directory) = &directory {
            std::fs::create_dir_all(directory).unwrap();
            std::fs::write(directory.join(format!("seed-{seed:02}")), &bytes).unwrap();
        }
        run(&bytes);
    }
}

#[test]
fn any_file_may_be_offered_as_a_region() {
    replay("attach", |data| assert!(!super::attach(data) || data.len() > 4));
}

#[test]
fn the_fuzzer_of_attach_gets_in_with_what_is_lawful() {
    // A valid header; the three seals; the smallest size; no patches; content of the rings.
    assert!(super::attach(&[0x80, 0x07, 0, 0, 7, 7]));
    for wrong in [[0x80, 0x06, 0, 0], [0x80, 0x03, 0, 0], [0x00, 0x07, 0, 0], [0x85, 0x07, 0, 0]] {
        assert!(!super::attach(&wrong), "{wrong:?}");
    }
    let is_mapped = super::attach(&[0x80, 0x07, 18, 0]);
    assert_eq!(is_mapped, usize::BITS >= 64, "a GiB of ring");
    assert!(!super::attach(&[0x80, 0x07, 19, 0]), "two GiB of ring");
}

#[test]
fn the_ring_does_what_a_queue_does() {
    replay("ring", super::ring);
}

#[test]
fn a_peer_may_write_anything_at_any_time() {
    replay("peer", super::peer);
}

#[test]
fn anything_may_be_said_in_the_handshake() {
    replay("handshake", super::handshake);
    let _ = std::fs::remove_dir_all(super::handshake::directory());
}
