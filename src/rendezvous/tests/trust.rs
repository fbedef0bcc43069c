//! Directories that may not be trusted.

use std::os::unix::fs::{chown, symlink};

use super::*;

fn refusals(name: &Name) -> (ShmError, ShmError) {
    (ListenerSocket::bind(name, None).unwrap_err(), connector(name).unwrap_err())
}

#[test]
fn where_others_may_write_nobody_is_trusted() {
    let dir = TempDir::new();
    for mode in [0o777, 0o770, 0o720, 0o702, 0o1777] {
        dir.set_mode(mode);
        let refused = refusals(&dir.name("a"));
        let cause = DenialCause::DirectoryWritable { mode };
        for refused in [refused.0, refused.1] {
            assert!(is_denied(&refused, cause, dir.path()), "{mode:o} {refused:?}");
        }
    }
    let open = Name::new("/tmp/wakering-test-never").unwrap();
    let refused = ListenerSocket::bind(&open, None);
    assert!(matches!(refused, Err(ShmError::PermissionDenied { .. })), "{refused:?}");
    // Reading is no danger.
    dir.set_mode(0o755);
    assert!(ListenerSocket::bind(&dir.name("a"), None).is_ok());
}

#[test]
fn a_link_or_a_file_in_the_directorys_place_is_an_error() {
    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    let link = dir.path().join("link");
    symlink("real", &link).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let dangling = dir.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    for (place, is_link) in
        [(link.clone(), true), (link.join("."), true), (file, false), (dangling, true)]
    {
        let name = name_in(&place, "a");
        let refused = refusals(&name);
        for refused in [refused.0, refused.1] {
            let ShmError::Io { step, source } = refused else { panic!("{refused:?}") };
            assert_eq!(step, "opening the socket directory");
            assert_eq!(source.kind(), std::io::ErrorKind::NotADirectory);
            let text = source.to_string();
            assert!(text.starts_with(name.directory().to_str().unwrap()), "{text}");
            assert_eq!(text.contains("is a symbolic link"), is_link, "{text}");
        }
    }
    // Further up links are the administrator's business.
    let below = link.join("below");
    std::fs::create_dir(&below).unwrap();
    assert!(ListenerSocket::bind(&name_in(&below, "a"), None).is_ok());
}

#[test]
fn somebody_elses_directory_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("only root can do this: left out");
    }
    let dir = TempDir::new();
    let name = dir.name("a");
    let engine = Engine::new(&name);
    chown(dir.path(), Some(54321), None).unwrap();
    let (bind, connector) = refusals(&name);
    let its_owner = DenialCause::DirectoryOwner { uid: 54321 };
    assert!(is_denied(&bind, its_owner, dir.path()), "{bind:?}");
    assert!(is_denied(&connector, its_owner, dir.path()), "{connector:?}");
    // The predicate accepts the engine, but the directory belongs to neither of us.
    let open = Connector::new(&name, Some(Allow::new(|_| true)), Instant::now() + LONG).unwrap();
    let refused = engine.meet(open).unwrap_err();
    assert!(is_denied(&refused, its_owner, dir.path()), "{refused:?}");
}

#[test]
fn a_link_in_the_sockets_place_is_not_followed() {
    let dir = TempDir::new();
    let name = dir.name("a");
    let _engine = Engine::new(&name);
    symlink("a.sock", dir.path().join("b.sock")).unwrap();
    let link = dir.name("b");
    let error = connector(&link).unwrap().block().unwrap_err();
    let ShmError::Io { source, .. } = error else { panic!("{error:?}") };
    assert!(source.to_string().starts_with(link.path().to_str().unwrap()), "{source}");
}
