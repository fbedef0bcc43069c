//! The engine's listening socket: how it gets its name, and how it gives it up.
//!
//! A crash leaves the socket's file behind, and the next engine takes it over. So that two of them
//! never do that at once, and none unlinks what another has just bound, each directory has one
//! lock file. It is held only meanwhile, so nothing depends on it after a fork or a crash, and
//! never unlinked, because a lock on a file that others cannot find excludes nobody.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::SocketFlags;
use rustix::process::Pid;

use super::directory::Directory;
use super::name::{LOCK_FILE, NEW_FILE, Name};
use super::socket;
use crate::error::ShmError;
use crate::sockopt;

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 128;
/// The lock is held for a few system calls; who does not get it in this time never will.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(1);
/// Socket file of an engine whose builder named no mode.
const DEFAULT_MODE: u32 = 0o600;

/// A socket that listens under its name, until it is dropped.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    socket: OwnedFd,
    directory: Directory,
    name: Name,
    /// The socket's file. Its number is not given to another one while the socket is open.
    inode: Inode,
    /// Who bound it: a forked child that drops its copy leaves the parent's name alone.
    owner: Pid,
}

impl BoundSocket {
    /// Binds `name` with `mode`, or readable and writable by its owner alone.
    ///
    /// # Errors
    /// `NameInUse` if somebody serves the name, or something that is not a socket has it;
    /// `PermissionDenied` for a directory that is not ours alone; `InvalidConfig` for a mode of
    /// more than permission bits; `Unsupported` without `/proc`; `Io`, also if the directory's lock
    /// cannot be had for seconds.
    pub(crate) fn bind(name: &Name, mode: Option<u32>) -> Result<Self, ShmError> {
        let mode = permissions(mode.unwrap_or(DEFAULT_MODE))?;
        let directory = Directory::for_engine(name)?;
        let _lock = Lock::take(&directory)?;
        expect_stale(&directory, name)?;
        remove_new(&directory)?;
        let bound = listen(&directory, mode).and_then(|(socket, inode)| {
            rustix::fs::renameat(&directory, NEW_FILE, &directory, name.file())
                .map_err(ShmError::io("renaming the socket"))?;
            Ok((socket, inode))
        });
        // If it failed half-way its file may be left; if it went well there is none.
        if bound.is_err() {
            let _ = remove_new(&directory);
        }
        let (socket, inode) = bound?;
        let owner = rustix::process::getpid();
        Ok(Self { socket, directory, name: name.clone(), inode, owner })
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        self.name.path()
    }

    /// The next connection, which neither blocks nor outlives an exec. `None`: there is none.
    ///
    /// # Errors
    /// What the kernel says, mostly that there are too many descriptors. The connection stays in
    /// the backlog then, and the socket stays readable.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.socket, flags) {
                Ok(guest) => return Ok(Some(guest)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Unlinks the name, if it still is ours.
    fn give_up_name(&self) -> Result<(), ShmError> {
        let _lock = Lock::take(&self.directory)?;
        let now = rustix::fs::statat(&self.directory, self.name.file(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ShmError::io("looking at the socket"))?;
        if Inode::of(&now) == self.inode {
            rustix::fs::unlinkat(&self.directory, self.name.file(), AtFlags::empty())
                .map_err(ShmError::io("unlinking the socket"))?;
        }
        Ok(())
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if rustix::process::getpid() == self.owner {
            // What fails here leaves a stale socket behind, which the next engine takes over.
            let _ = self.give_up_name();
        }
    }
}

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(stat: &Stat) -> Self {
        // The types of the fields differ from one architecture to the next.
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "not everywhere")]
        Self { device: stat.st_dev as u64, number: stat.st_ino as u64 }
    }
}

fn permissions(mode: u32) -> Result<Mode, ShmError> {
    const ALL: u32 = 0o777;
    if mode & !ALL != 0 {
        let what = "mode (permission bits)";
        return Err(ShmError::InvalidConfig { what, given: mode.into(), allowed: ALL.into() });
    }
    Ok(Mode::from_raw_mode(mode))
}

/// Under the lock: makes sure that nobody serves the name.
fn expect_stale(directory: &Directory, name: &Name) -> Result<(), ShmError> {
    match socket::connect(directory.as_fd(), name.file()) {
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(()),
        // These tell of us, not of the socket.
        Err(
            errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | socket::NO_PROC),
        ) => Err(socket::error("looking for another engine", errno)),
        // Somebody listens, or it is no socket, or it cannot be told: we leave it alone.
        Ok(_) | Err(_) => Err(name.in_use()),
    }
}

/// Under the lock: removes what a crash left. Only the lock's holder has such a file, so this one
/// is nobody's; but in a directory that is not ours, something else may have that name.
fn remove_new(directory: &Directory) -> Result<(), ShmError> {
    const STEP: &str = "removing what a crash left";
    match rustix::fs::statat(directory, NEW_FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if socket::is_socket(stat.st_mode) => {
            rustix::fs::unlinkat(directory, NEW_FILE, AtFlags::empty()).map_err(ShmError::io(STEP))
        }
        Ok(_) => Err(ShmError::Io { step: STEP, source: io::ErrorKind::AlreadyExists.into() }),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(ShmError::io(STEP)(errno)),
    }
}

/// Under the lock: a socket that is ready in every way but its name.
fn listen(directory: &Directory, mode: Mode) -> Result<(OwnedFd, Inode), ShmError> {
    let socket = socket::unbound().map_err(ShmError::io("making a socket"))?;
    // What is accepted later inherits both.
    sockopt::refuse_descriptors(socket.as_fd());
    sockopt::ask_for_process(socket.as_fd(), true);
    socket::bind(&socket, directory.as_fd(), NEW_FILE)
        .map_err(|errno| socket::error("binding the socket", errno))?;
    // Nobody listens yet, so the mode that the umask gave it let nobody in.
    rustix::fs::chmodat(directory, NEW_FILE, mode, AtFlags::empty())
        .map_err(ShmError::io("setting the socket's mode"))?;
    let stat = rustix::fs::statat(directory, NEW_FILE, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(ShmError::io("looking at the socket"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(ShmError::io("listening"))?;
    Ok((socket, Inode::of(&stat)))
}

/// A directory's lock, held.
#[derive(Debug)]
struct Lock(OwnedFd);

impl Lock {
    /// Takes the lock, waiting a short while for others who hold it.
    fn take(directory: &Directory) -> Result<Self, ShmError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let lock = Self::open(directory)?;
            match retry_on_intr(|| {
                rustix::fs::flock(&lock.0, FlockOperation::NonBlockingLockExclusive)
            }) {
                Ok(()) if lock.is_current(directory)? => return Ok(lock),
                // A cleaner unlinked it while we took it: the next look finds the new one.
                Ok(()) | Err(Errno::AGAIN) => {}
                Err(errno) => return Err(ShmError::io(LOCKING)(errno)),
            }
            if Instant::now() >= deadline {
                return Err(ShmError::Io { step: LOCKING, source: io::ErrorKind::TimedOut.into() });
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    fn open(directory: &Directory) -> Result<Self, ShmError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // A FIFO or a device in its place must not block us.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::openat(directory, LOCK_FILE, flags, Mode::RUSR | Mode::WUSR)
            .map(Self)
            .map_err(|errno| socket::error(LOCKING, errno))
    }

    /// Whether the file that we locked is the one that others will find.
    fn is_current(&self, directory: &Directory) -> Result<bool, ShmError> {
        let ours = rustix::fs::fstat(&self.0).map_err(ShmError::io(LOCKING))?;
        match rustix::fs::statat(directory, LOCK_FILE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok(Inode::of(&named) == Inode::of(&ours)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(ShmError::io(LOCKING)(errno)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child forked meanwhile has a copy, and would keep the lock.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

const LOCKING: &str = "locking the socket directory";
