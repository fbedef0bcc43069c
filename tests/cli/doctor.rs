//! `doctor` finds what stands in the way of channels.

use std::fs;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use wakering::{Backend, Driver};

use crate::common::Dir;
use crate::common::child::{self, test_path};
use crate::common::seccomp::{Refuse, refuse};
use crate::program::{Ended, run};

/// What it found, as JSON, and how it ended.
fn doctor(dir: &Dir) -> (Value, Ended) {
    let ended = run(dir, "doctor --json");
    let mut objects = ended.objects();
    assert_eq!(objects.len(), 1);
    (objects.remove(0), ended)
}

/// The texts of a list.
fn texts<'a>(object: &'a Value, list: &str) -> Vec<&'a str> {
    object[list].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn where_all_is_well_it_says_so_and_what_there_is() {
    let dir = Dir::new();
    let (found, ended) = doctor(&dir);
    ended.succeeded();
    assert_eq!(texts(&found, "problems"), [""; 0]);

    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(found["kernel"]["release"], release.trim());
    let io_uring = Driver::builder().backend(Backend::IoUring).build();
    assert_eq!(found["io_uring"]["usable"], io_uring.is_ok());
    assert_eq!(found["io_uring"]["reason"].is_null(), io_uring.is_ok());

    let directory = &found["directory"];
    assert_eq!(directory["path"], dir.path().to_str().unwrap());
    assert_eq!((&directory["mode"], &directory["accepted"]), (&"0700".into(), &true.into()));
    assert_eq!(directory["owner_uid"], rustix::process::getuid().as_raw());

    let files = getrlimit(Resource::Nofile).current;
    assert_eq!(found["limits"]["nofile_soft"].as_u64(), files);
    assert!(found["limits"]["memlock_soft"].is_u64() || found["limits"]["memlock_soft"].is_null());

    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert_eq!(found["spin"]["cores"].as_u64(), Some(cores));
    let measured = |name: &str| found["spin"][name].as_f64() > Some(0.0);
    // Other tests may be all that runs.
    let is_busy = |note: &&str| note.contains("too busy to measure");
    if texts(&found, "notes").iter().any(is_busy) {
        assert!(found["spin"]["pays"].is_null(), "{found}");
    } else if cores > 1 {
        assert!(measured("hop_ns") && measured("wake_ns"), "{found}");
        assert!(found["spin"]["pays"].is_boolean(), "{found}");
    } else {
        assert!(found["spin"]["hop_ns"].is_null() && found["spin"]["pays"] == false, "{found}");
    }

    // The docs' numbers, and what two ends have. A kernel before 6.5 names no process.
    let channel = &found["channel"];
    let documented = ["engine_descriptors", "application_descriptors"];
    let documented: u64 = documented.iter().map(|name| channel[name].as_u64().unwrap()).sum();
    let measured = channel["measured_descriptors"].as_u64().unwrap();
    assert!(measured == documented || measured + 2 == documented, "{channel}");
    let idle = channel["measured_idle_bytes"].as_u64().unwrap();
    assert!((1..20 << 10).contains(&idle), "{channel}");

    let tests = found["self_test"]["tests"].as_array().unwrap();
    assert_eq!(found["self_test"]["by_name"], true);
    assert_eq!(tests.len(), if io_uring.is_ok() { 2 } else { 1 });
    for test in tests {
        assert!(test["error"].is_null() && test["nanoseconds"].as_u64() > Some(0), "{test}");
        assert_eq!(test["packets"], 1000);
    }
    // What it has served, it has given up.
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);

    let text = String::from_utf8(run(&dir, "doctor").succeeded()).unwrap();
    for name in ["kernel", "io_uring", "directory", "limits", "spin", "channel", "self_test"] {
        assert!(found[name].is_object(), "{name} in {found}");
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} in {text}");
    }
    assert!(!text.contains("problem"), "{text}");
}

#[test]
fn a_directory_that_is_not_accepted_is_a_problem() {
    let dir = Dir::new();
    dir.set_mode(0o770);
    let (found, ended) = doctor(&dir);
    ended.failed(1, "the directory has mode 0770");
    assert_eq!(
        (&found["directory"]["mode"], &found["directory"]["accepted"]),
        (&"0770".into(), &false.into())
    );
    assert_eq!(found["directory"]["path"], dir.path().to_str().unwrap());
    assert_eq!(texts(&found, "problems").len(), 1, "{found}");
    // Channels without a name work all the same.
    assert_eq!(found["self_test"]["by_name"], false);
    assert!(found["self_test"]["tests"][0]["error"].is_null(), "{found}");

    let text = run(&dir, "doctor");
    text.failed(1, "the directory has mode 0770");
    let text = String::from_utf8(text.output).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains(" problem ")).count(), 1, "{text}");
}

#[test]
fn a_directory_that_is_not_there_is_made_by_an_engine_or_is_a_problem() {
    let dir = Dir::new();
    let below = |path: &str| {
        let path = dir.path().join(path);
        let mut command = crate::program::command(&dir, "doctor --json");
        command.env("WAKERING_DIR", &path).stdin(std::process::Stdio::null());
        let ended = crate::program::Program::spawn(&mut command).wait();
        (ended.objects().remove(0), ended, path)
    };
    let (found, ended, path) = below("new");
    ended.succeeded();
    assert_eq!(
        (&found["directory"]["exists"], &found["directory"]["accepted"]),
        (&false.into(), &true.into())
    );
    assert!(!path.exists(), "it is not made for a look");
    let (found, ended, _) = below("new/and/deep");
    ended.failed(1, "is not there, and no engine here can make it");
    assert_eq!(found["directory"]["accepted"], false);
    fs::write(dir.path().join("file"), "").unwrap();
    let (found, ended, _) = below("file");
    ended.failed(1, "Not a directory");
    assert_eq!(found["directory"]["accepted"], false);
}

#[test]
fn it_says_why_there_is_no_io_uring() {
    for (errno, name) in [(Errno::PERM, "EPERM"), (Errno::NOSYS, "ENOSYS")] {
        let errno = errno.raw_os_error().to_string();
        child::passes(test_path!(child_without_io_uring), &[&errno, name]);
    }
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_without_io_uring() {
    let Some(arguments) = child::arguments() else { return };
    let errno = Errno::from_raw_os_error(child::parsed(&arguments[0]));
    refuse(&[Refuse::io_uring_setup(errno)]).unwrap();
    let dir = Dir::new();
    let (found, ended) = doctor(&dir);
    // Everything works without.
    ended.succeeded();
    let io_uring = &found["io_uring"];
    assert_eq!((&io_uring["usable"], &io_uring["seccomp_filter"]), (&false.into(), &true.into()));
    if cfg!(feature = "io-uring") {
        assert!(io_uring["reason"].as_str().unwrap().contains(&arguments[1]), "{io_uring}");
        let notes = texts(&found, "notes");
        let filter = notes.iter().any(|note| note.contains("a seccomp filter is in force here"));
        assert!(filter, "{notes:?}");
    }
    let tests = found["self_test"]["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 1);
    assert_eq!((&tests[0]["backend"], &tests[0]["error"]), (&"epoll".into(), &Value::Null));
}

#[test]
fn limits_that_are_too_low_are_told() {
    child::passes(test_path!(child_with_low_limits), &[]);
}

#[test]
#[ignore = "a second process, for a test to start"]
fn child_with_low_limits() {
    let Some(_) = child::arguments() else { return };
    let lower = |resource, limit| {
        let maximum = getrlimit(resource).maximum;
        setrlimit(resource, Rlimit { current: Some(limit), maximum }).unwrap();
    };
    let dir = Dir::new();
    lower(Resource::Nofile, 120);
    let (found, ended) = doctor(&dir);
    ended.succeeded();
    assert_eq!(found["limits"]["nofile_soft"], 120);
    let few = |note: &&str| note.starts_with("limits: 120 descriptors, at most ");
    assert!(texts(&found, "notes").iter().any(few), "{found}");

    lower(Resource::Fsize, 1 << 20);
    let (found, ended) = doctor(&dir);
    ended.failed(1, " other problems)");
    let problems = texts(&found, "problems");
    assert!(problems.iter().any(|one| one.starts_with("limits: files have at most 1 MiB")));
    assert!(problems.iter().any(|one| one.starts_with("channel: no channel can be made: ")));
    assert!(problems.iter().any(|one| one.starts_with("self_test: ")), "{problems:?}");
}
