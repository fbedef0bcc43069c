//! The directory of a socket, held open so that it cannot be exchanged under our hands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::name::Name;
use super::socket;
use crate::credentials::Us;
use crate::error::ShmError;

/// Bits of `st_mode` that let others write: the group's and everybody's.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A directory that was opened and judged. All work goes below the descriptor.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    owner: u32,
}

impl Directory {
    /// The engine's: made if it is missing and the library's own, and it must be ours.
    ///
    /// # Errors
    /// `PermissionDenied` if somebody else owns it or may write to it, `Io` otherwise.
    pub(super) fn for_engine(name: &Name) -> Result<Self, ShmError> {
        if name.is_relative() {
            make(name.directory())?;
        }
        let opened = open(name.directory());
        let directory = Self::judge(opened.map_err(|errno| socket::error(OPENING, errno))?)?;
        if !Us::now().is(directory.owner) {
            return Err(ShmError::PermissionDenied);
        }
        Ok(directory)
    }

    /// The application's: nobody but its owner may write to it. Who that may be, is asked with
    /// [`Directory::is_trusted`].
    ///
    /// # Errors
    /// `NotFound` if there is none, `PermissionDenied` if others may write to it, `Io` otherwise.
    pub(super) fn for_application(name: &Name) -> Result<Self, ShmError> {
        match open(name.directory()) {
            Ok(opened) => Self::judge(opened),
            Err(Errno::NOENT) => Err(name.not_found()),
            Err(errno) => Err(socket::error(OPENING, errno)),
        }
    }

    fn judge(fd: OwnedFd) -> Result<Self, ShmError> {
        let stat: Stat = rustix::fs::fstat(&fd).map_err(ShmError::io(OPENING))?;
        if stat.st_mode & WRITABLE_BY_OTHERS != 0 {
            return Err(ShmError::PermissionDenied);
        }
        Ok(Self { fd, owner: stat.st_uid })
    }

    /// The user who owns it.
    pub(super) fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether it belongs to ourselves or to root.
    pub(super) fn is_trusted(&self) -> bool {
        Us::now().is_or_root(self.owner)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const OPENING: &str = "opening the socket directory";

/// `O_PATH`, because an application needs no right to list it. A link as the last part of the path
/// is refused: whoever made it could point it elsewhere at any time.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Makes the last level alone. What is already there is judged by the caller.
fn make(path: &Path) -> Result<(), ShmError> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(socket::error("making the socket directory", errno)),
    }
}
