//! What needs a process of its own: this very test binary, run again for one ignored test.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use super::*;

/// Where the other process finds the socket.
const PATH: &str = "WAKERING_TEST_PATH";

fn other(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("rendezvous::tests::processes::{test}");
    command.args(["--exact", &test, "--ignored", "--nocapture"]).env(PATH, path);
    command
}

/// The name that the other process was given; `None` when somebody runs the ignored tests.
fn given() -> Option<Name> {
    let path = std::env::var(PATH).ok()?;
    Some(Name::new(&path).unwrap())
}

/// Turns until the other process has exited, and wants it to be content.
fn serve(engine: &Engine, mut child: Child) {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return;
        }
        assert!(Instant::now() < deadline);
        engine.turn(Instant::now() + Duration::from_millis(5));
    }
}

#[test]
#[ignore = "run by another_user_is_let_in_by_a_predicate_alone"]
fn as_another_user() {
    let Some(name) = given() else { return };
    assert!(matches!(connector(&name).unwrap().block(), Err(ShmError::PermissionDenied { .. })));
}

#[test]
#[ignore = "run by another_user_is_let_in_by_a_predicate_alone"]
fn as_another_user_who_is_welcome() {
    let Some(name) = given() else { return };
    let connection = connector(&name).unwrap().block().unwrap();
    assert_eq!(connection.lifeline.peer().uid, 0);
}

#[test]
fn another_user_is_let_in_by_a_predicate_alone() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("only root can be somebody else: left out");
    }
    let dir = TempDir::new();
    let path = dir.path().join("a");
    let name = Name::new(path.to_str().unwrap()).unwrap();
    let run = |test| {
        // The binary may lie where others cannot read; then there is nothing to learn here.
        let child = other(test, &path).uid(54321).gid(54321).spawn();
        child.inspect_err(|error| eprintln!("not to be run by others ({error}): left out")).ok()
    };
    // The socket's mode keeps him out, then the engine.
    for (mode, refused) in [(0o600, 0), (0o666, 1)] {
        let engine = Engine::with(ListenerSocket::bind(&name, Some(mode)).unwrap(), None);
        let Some(child) = run("as_another_user") else { return };
        serve(&engine, child);
        assert_eq!(engine.acceptor.clients().refused, refused, "{mode:o}");
    }
    let allow = Allow::new(|peer| peer.uid == 54321);
    let engine = Engine::with(ListenerSocket::bind(&name, Some(0o666)).unwrap(), Some(allow));
    let Some(child) = run("as_another_user_who_is_welcome") else { return };
    serve(&engine, child);
    assert_eq!(lock(&engine.face.peers)[0].peer().uid, 54321);
}

#[test]
#[ignore = "run by an_application_that_comes_before_the_mode_is_let_in"]
fn before_the_mode() {
    let Some(name) = given() else { return };
    let mut early = connector(&name).unwrap();
    // It is not believed at once that this is the mode that the engine wants.
    assert!(matches!(early.step(), Ok(Progress::RetryAt(_))));
    let mut hurried = Connector::new(&name, None, Instant::now()).unwrap();
    let denied = hurried.step().unwrap_err();
    assert!(is_denied(&denied, DenialCause::FileSystem, name.path()), "{denied:?}");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)
        .unwrap();
    // Another thread of this process may take the signal, and this one go on for a while.
    while std::fs::metadata(name.path()).unwrap().permissions().mode() & 0o777 != 0o666 {
        std::thread::yield_now();
    }
    early.block().unwrap();
}

#[test]
fn an_application_that_comes_before_the_mode_is_let_in() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("only root can be somebody else: left out");
    }
    let dir = TempDir::new();
    let path = dir.path().join("a");
    let name = Name::new(path.to_str().unwrap()).unwrap();
    let allow = Allow::new(|peer| peer.uid == 54321);
    // As between `bind` and `chmod`.
    let engine = Engine::with(ListenerSocket::bind(&name, Some(0o755)).unwrap(), Some(allow));
    let child = match other("before_the_mode", &path).uid(54321).gid(54321).spawn() {
        Ok(child) => child,
        Err(error) => return eprintln!("not to be run by others ({error}): left out"),
    };
    let pid = rustix::process::Pid::from_child(&child);
    let deadline = Instant::now() + LONG;
    let stopped = rustix::process::WaitOptions::UNTRACED | rustix::process::WaitOptions::NOHANG;
    loop {
        match rustix::process::waitpid(Some(pid), stopped).unwrap() {
            Some((_, status)) => break assert!(status.stopped(), "{status:?}"),
            None => assert!(Instant::now() < deadline),
        }
        std::thread::yield_now();
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    serve(&engine, child);
    assert_eq!(engine.lifelines(), 1);
}

#[test]
#[ignore = "run by a_lack_of_descriptors_never_spins"]
fn without_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some(name) = given() else { return };
    let engine = Engine::new(&name);
    let mut clients = vec![connector(&name).unwrap()];
    assert!(matches!(clients[0].step(), Ok(Progress::WaitReadable)));
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: limit.maximum }).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(350) {
        engine.turn(start + Duration::from_millis(350));
    }
    // Every tenth of a second one timer and one refused accept.
    assert!(engine.turns.load(Ordering::Relaxed) < 15);
    assert_eq!(engine.lifelines(), 0);
    // It pauses; and when the pause is over, the kernel has no memory for the watch.
    while engine.watcher.watched.load(Ordering::Relaxed) > 0 {
        engine.turn(Instant::now() + LONG);
    }
    engine.watcher.refusals.store(1, Ordering::Relaxed);
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(engine.meet(clients.remove(0)).is_ok());
}

#[test]
fn a_lack_of_descriptors_never_spins() {
    let dir = TempDir::new();
    let mut child = other("without_descriptors", &dir.path().join("a")).spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "run by a_killed_engine_is_taken_over"]
fn to_be_killed() {
    let Some(name) = given() else { return };
    let engine = Engine::new(&name);
    engine.run_until(|_| false);
}

#[test]
fn a_killed_engine_is_taken_over() {
    let dir = TempDir::new();
    let path = dir.path().join("a");
    let name = Name::new(path.to_str().unwrap()).unwrap();
    let mut child = other("to_be_killed", &path).spawn().unwrap();
    let deadline = Instant::now() + LONG;
    let connection = loop {
        match connector(&name).unwrap().block() {
            Ok(connection) => break connection,
            Err(ShmError::NotFound { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
        assert!(Instant::now() < deadline);
    };
    assert!(matches!(ListenerSocket::bind(&name, None), Err(ShmError::NameInUse { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(drain(connection.lifeline.as_fd(), 9).hung_up);
    assert!(path.exists());
    assert!(ListenerSocket::bind(&name, None).is_ok());
}

#[test]
#[ignore = "run by a_peer_in_another_pid_namespace_has_no_pid"]
fn in_another_pid_namespace() {
    let Some(name) = given() else { return };
    let connection = connector(&name).unwrap().block().unwrap();
    assert_eq!((connection.lifeline.peer().pid, connection.lifeline.peer().uid), (0, 0));
}

#[test]
fn a_peer_in_another_pid_namespace_has_no_pid() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("only root can do this: left out");
    }
    let dir = TempDir::new();
    let path = dir.path().join("a");
    let engine = Engine::new(&Name::new(path.to_str().unwrap()).unwrap());
    let inner = other("in_another_pid_namespace", &path);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork"]).arg(inner.get_program()).args(inner.get_args());
    let Ok(child) = command.env(PATH, &path).spawn() else { return };
    serve(&engine, child);
    assert_eq!(engine.lifelines(), 1);
    // But it has a descriptor, which tells that it has ended.
    let lifeline = &lock(&engine.face.peers)[0];
    let tells = crate::sys::sockopt::ask_for_process(lifeline.as_fd(), false);
    assert_eq!(lifeline.is_orphaned(), tells);
}
