//! What the command says of itself, and what it does with arguments that are not allowed.

use crate::common::Dir;
use crate::program::run;

const COMMANDS: [&str; 5] = ["top", "cat", "ping", "bench", "doctor"];

#[test]
fn each_command_has_a_help_with_its_exit_status_and_examples() {
    let dir = Dir::new();
    let help = String::from_utf8(run(&dir, "--help").succeeded()).unwrap();
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in {help}");
        let [short, long] = ["-h", "--help"].map(|how| {
            String::from_utf8(run(&dir, &format!("{command} {how}")).succeeded()).unwrap()
        });
        for help in [&short, &long] {
            assert!(help.contains(&format!("Usage: wakering {command} ")), "{help}");
            for part in ["--json", "\nExit status:\n  0 ", "\n  124 ", "\nExamples:\n"] {
                assert!(help.contains(part), "no {part:?} in {help}");
            }
        }
        assert!(long.len() > short.len(), "the long help of {command} tells more");
    }
    assert!(!help.contains("bench-side"), "the command for bench alone is not listed: {help}");
    for part in ["\nExit status:\n", "$WAKERING_DIR"] {
        assert!(help.contains(part), "no {part:?} in {help}");
    }
    let version = String::from_utf8(run(&dir, "--version").succeeded()).unwrap();
    assert_eq!(version, format!("wakering {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn arguments_that_are_not_allowed_exit_with_2() {
    let dir = Dir::new();
    let cases = [
        ("", "Usage"),
        ("nonsense", "nonsense"),
        ("top --interval 0", "above 0"),
        ("top --once --for-ever", "--for-ever"),
        ("cat", "<NAME>"),
        ("cat --frames words x", "lines, length, bytes"),
        ("cat --engine --listen x", "--listen"),
        ("cat --engine --wait x", "--wait"),
        ("cat --sessions 1 x", "--listen"),
        ("cat --ring-bytes 8k x", "--engine"),
        ("cat --engine --ring-bytes many x", "8k"),
        ("cat --wait=-1 x", "number of seconds"),
        ("ping", "<NAME>"),
        ("ping --count 0 x", "--count"),
        ("ping --deadline never x", "number of seconds"),
        ("ping --echo --count 1 x", "--count"),
        ("ping --backend poll x", "io-uring"),
        ("bench --seconds 0", "above 0"),
        ("bench --sizes 64,0", "from 1 to 1048568"),
        ("bench --sizes 2M", "from 1 to 1048568"),
        ("bench --drivers awake", "blocking, parked, polled, background"),
        ("bench --only latency", "round-trips, streams"),
        ("doctor now", "now"),
        // These only the library knows.
        ("cat .hidden", "invalid name"),
        ("ping a/b", "invalid name"),
        ("ping --echo a/b", "invalid name"),
        ("cat --engine --ring-bytes 5000 x", "given 5000"),
        ("cat --listen --max-packet 0 x", "given 0"),
    ];
    for (arguments, part) in cases {
        let ended = run(&dir, arguments);
        assert_eq!(ended.status, Some(2), "{arguments}: {}", ended.errors);
        assert!(ended.errors.contains(part), "no {part:?} for {arguments}: {}", ended.errors);
        assert!(ended.output.is_empty(), "{arguments}");
    }
}
