//! The directory in which engines are found by relative names.
//!
//! Only the library knows which one it is, and whom it trusts there: this asks it to connect to a
//! name that nobody serves, and to serve that name.

use std::path::Path;

use rustix::fs::{Access, access, stat};
use wakering::{ShmError, SpscHandle, SpscListener};

use super::section::Section;
use crate::failure::Failure;

/// What was found, and a name that can be served there.
pub(super) struct Directory {
    pub(super) section: Section,
    pub(super) name: Option<String>,
}

pub(super) fn look() -> Directory {
    let name = format!("wakering-doctor-{}", std::process::id());
    let section = Section::new("directory");
    match SpscHandle::connect(&name) {
        Err(ShmError::NotFound { path }) => look_at(section, parent(&path), name),
        Err(error) => {
            let section = match &error {
                ShmError::PermissionDenied { path, .. } => describe(section, path),
                _ => section.fact("path", Option::<&str>::None),
            };
            refused(section.fact("accepted", false), error)
        }
        Ok(_) => {
            let section = section.note(format!("another engine serves {name}: try again"));
            Directory { section, name: None }
        }
    }
}

/// Looks at a directory that an application accepts, or that is not there.
fn look_at(section: Section, path: &Path, name: String) -> Directory {
    let section = describe(section, path);
    let shown = path.display();
    if stat(path).is_err() {
        let section = match access(parent(path), Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => section
                .fact("accepted", true)
                .ok(format!("{shown} is not there; the first engine makes it")),
            Err(errno) => section
                .fact("accepted", false)
                .problem(format!("{shown} is not there, and no engine here can make it: {errno}")),
        };
        return Directory { section, name: None };
    }
    match SpscListener::bind(&name) {
        Ok(_) => {
            let text = format!("{shown}: engines and applications of this user accept it");
            Directory { section: section.fact("accepted", true).ok(text), name: Some(name) }
        }
        Err(error) => {
            // Other errors are about the machine, and say nothing of the directory.
            let is_denied = matches!(error, ShmError::PermissionDenied { .. });
            refused(section.fact("accepted", is_denied.then_some(false)), error)
        }
    }
}

/// The directory that a file is in.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn refused(section: Section, error: ShmError) -> Directory {
    Directory { section: section.problem(Failure::from(error).to_string()), name: None }
}

/// Whose it is.
fn describe(section: Section, path: &Path) -> Section {
    let stat = stat(path).ok();
    section
        .fact("path", path.display().to_string())
        .fact("exists", stat.is_some())
        .fact("owner_uid", stat.as_ref().map(|stat| stat.st_uid))
        .fact("mode", stat.as_ref().map(|stat| format!("{:04o}", stat.st_mode & 0o7777)))
        .fact("own_uid", rustix::process::geteuid().as_raw())
}
