//! The directory of a socket, held open so that nobody can exchange it while we use it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::name::Name;
use super::socket;
use crate::error::{DenialCause, ShmError};
use crate::rendezvous::credentials::Us;
use crate::sys::pause::pause;

/// Bits of `st_mode` that let others write: the group's and everybody's.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Bits of `st_mode` that are permissions.
const PERMISSIONS: u32 = 0o7777;
/// How long an engine waits for a cleaner to leave its directory.
const HOLD_PATIENCE: Duration = Duration::from_millis(100);
/// The time between two attempts.
const HOLD_PAUSE: Duration = Duration::from_millis(1);
/// How many bytes of a path fit into a Unix socket's address.
const ADDRESS_BYTES: usize = 107;

/// A directory that was opened and checked. All operations go through its descriptor.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    owner: u32,
    path: Box<Path>,
}

impl Directory {
    /// Opens the directory for an engine: it must be ours. It is created if it is missing and is
    /// the library's own.
    ///
    /// As long as it is open, the engine holds a shared `flock` on it, if it could take one.
    /// Cleaners like systemd-tmpfiles skip a directory that they find locked when they reach it
    /// from above.
    ///
    /// # Errors
    /// `PermissionDenied` if another user owns it or may write to it, `Io` otherwise.
    pub(super) fn for_engine(name: &Name) -> Result<Self, ShmError> {
        let path = name.directory();
        if name.is_relative() {
            make(path)?;
        }
        let opened = match open(path, OFlags::RDONLY) {
            // Its owner may have no right to list it. Then it cannot be locked.
            Err(Errno::ACCESS) => open(path, OFlags::PATH),
            opened => opened,
        };
        let directory = Self::judge(opened.map_err(|errno| not_opened(errno, path))?, path)?;
        if !Us::now().is(directory.owner) {
            return Err(directory.denied(DenialCause::DirectoryOwner { uid: directory.owner }));
        }
        directory.hold();
        Ok(directory)
    }

    /// Opens the directory for an application: only its owner may write to it.
    /// [`Directory::is_trusted`] tells whether that owner is trusted.
    ///
    /// # Errors
    /// `NotFound` if there is none, `PermissionDenied` if others may write to it, `Io` otherwise.
    pub(super) fn for_application(name: &Name) -> Result<Self, ShmError> {
        // `O_PATH`, because an application needs no right to list it.
        match open(name.directory(), OFlags::PATH) {
            Ok(opened) => Self::judge(opened, name.directory()),
            Err(Errno::NOENT) => Err(name.not_found()),
            Err(errno) => Err(not_opened(errno, name.directory())),
        }
    }

    fn judge(fd: OwnedFd, path: &Path) -> Result<Self, ShmError> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| socket::error(OPENING, errno, path))?;
        let directory = Self { fd, owner: stat.st_uid, path: path.into() };
        if stat.st_mode & WRITABLE_BY_OTHERS != 0 {
            let mode = stat.st_mode & PERMISSIONS;
            return Err(directory.denied(DenialCause::DirectoryWritable { mode }));
        }
        Ok(directory)
    }

    /// The error for a directory that is not trusted.
    pub(super) fn denied(&self, cause: DenialCause) -> ShmError {
        ShmError::PermissionDenied { cause, path: self.path.clone() }
    }

    /// Returns the uid of its owner.
    pub(super) fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether it belongs to our own user or to root.
    pub(super) fn is_trusted(&self) -> bool {
        Us::now().is_or_root(self.owner)
    }

    /// Returns the path of a file in it, as errors show it.
    pub(super) fn path_of(&self, file: impl AsRef<Path>) -> PathBuf {
        self.path.join(file)
    }

    /// Returns the path of `file` through the directory's real path, which contains no symbolic
    /// links, if that fits into a socket's address.
    ///
    /// `/proc/net/unix` lists a socket by exactly the path that was bound, and cleaners spare
    /// listed sockets. Also returns `None` if the path that the kernel reports does not lead here:
    /// the directory was removed, or lies outside of the process's root.
    pub(super) fn real_path_of(&self, file: &OsStr) -> Option<PathBuf> {
        let real =
            rustix::fs::readlink(socket::path_through_proc(self.fd.as_fd()), Vec::new()).ok()?;
        let real = PathBuf::from(OsString::from_vec(real.into_bytes()));
        let path = real.join(file);
        if !real.is_absolute() || path.as_os_str().len() > ADDRESS_BYTES {
            return None;
        }
        let (there, here) = (rustix::fs::stat(&real).ok()?, rustix::fs::fstat(&self.fd).ok()?);
        (Inode::of(&there) == Inode::of(&here)).then_some(path)
    }

    /// Returns the `stat` of a file in it. Does not follow symbolic links.
    pub(super) fn look_at(&self, file: impl rustix::path::Arg) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.fd, file, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Locks it against cleaners. A cleaner locks the directory as long as it works in it, so this
    /// tries for a while. If that fails, the engine does without the lock: anyone who may list the
    /// directory can lock it, and must not be able to stop an engine that way.
    fn hold(&self) {
        let deadline = Instant::now() + HOLD_PATIENCE;
        let shared = FlockOperation::NonBlockingLockShared;
        while retry_on_intr(|| rustix::fs::flock(&self.fd, shared)) == Err(Errno::AGAIN)
            && Instant::now() < deadline
        {
            pause(HOLD_PAUSE);
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The identity of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    pub(super) fn of(stat: &Stat) -> Self {
        // The types of the fields differ between architectures.
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "not everywhere")]
        Self { device: stat.st_dev as u64, number: stat.st_ino as u64 }
    }
}

const OPENING: &str = "opening the socket directory";

/// Opens a directory. Refuses a symbolic link as the last part of the path, because its owner could
/// point it elsewhere at any time.
fn open(path: &Path, how: OFlags) -> Result<OwnedFd, Errno> {
    let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Returns the error for a directory that could not be opened.
fn not_opened(errno: Errno, path: &Path) -> ShmError {
    let is_link = || {
        let stat = rustix::fs::lstat(path);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    };
    // The kernel reports the same for a file and for a link to a directory.
    if errno == Errno::NOTDIR && is_link() {
        let text = "is a symbolic link, which is not followed: name the directory that it leads to";
        return ShmError::io_at(OPENING, path, io::Error::new(io::ErrorKind::NotADirectory, text));
    }
    socket::error(OPENING, errno, path)
}

/// Creates only the last level. The caller checks what is already there.
fn make(path: &Path) -> Result<(), ShmError> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(socket::error("making the socket directory", errno, path)),
    }
}
