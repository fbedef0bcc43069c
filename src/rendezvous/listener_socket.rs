//! The engine's listening socket: how it gets its name, and how it gives it up.
//!
//! A crash leaves the socket's file behind, and the next engine takes the name over. Each directory
//! has one lock file, so that two engines never do this at once, and so that no engine unlinks a
//! socket that another has just bound. The lock is held for a few system calls. A fork or a crash
//! during that time blocks nobody. Both together do: the child holds a copy of the lock as long as
//! it lives. The lock file is never unlinked, because a lock on a file that others cannot find
//! excludes nobody.
//!
//! Cleaners of temporary directories (systemd-tmpfiles) are the other danger, because they remove
//! old files. They spare a socket that the kernel lists under its path, a directory that a process
//! holds a `flock` on, and a file with the sticky bit. The engine binds the socket under its final
//! path and holds a lock on the directory: see [`Directory`]. If the path is too long for an
//! address, the engine binds through a descriptor, and the kernel lists another path; such a socket
//! gets the sticky bit.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{Shutdown, SocketAddrUnix, SocketFlags};

use super::directory::{Directory, Inode};
use super::name::{LOCK_FILE, NEW_FILE, Name};
use super::socket::{self, ConnectFailure};
use crate::error::{MODE, ShmError};
use crate::sys::fork::Origin;
use crate::sys::pause::pause;
use crate::sys::sockopt;

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 128;
/// The lock is held for a few system calls. An engine that does not get it in this time gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// The time between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(1);
/// The mode of the socket file if the builder set none.
const DEFAULT_MODE: u32 = 0o600;

/// A socket that listens under its name until it is dropped.
#[derive(Debug)]
pub(crate) struct ListenerSocket {
    socket: OwnedFd,
    directory: Directory,
    name: Name,
    /// The socket's file. Its number is not given to another file as long as the socket is open.
    inode: Inode,
    /// A forked child that drops its copy leaves the parent's name alone.
    origin: Origin,
}

impl ListenerSocket {
    /// Binds `name` with `mode`. Without a mode, only its owner can read and write it.
    ///
    /// # Errors
    /// - `NameInUse` if another engine serves the name, or if a file that is not a socket has it.
    /// - `PermissionDenied` for a directory that is not ours alone, and if the file system denies
    ///   access.
    /// - `InvalidConfig` for a mode of more than permission bits.
    /// - `Unsupported` without `/proc`.
    /// - `Io` otherwise, also if the directory's lock stays taken for seconds.
    pub(crate) fn bind(name: &Name, mode: Option<u32>) -> Result<Self, ShmError> {
        let mode = permissions(mode.unwrap_or(DEFAULT_MODE))?;
        let directory = Directory::for_engine(name)?;
        let _lock = Lock::take(&directory)?;
        let stale = expect_stale(&directory, name)?;
        let (socket, inode) = listen(&directory, name, stale, mode)?;
        Ok(Self { socket, directory, name: name.clone(), inode, origin: Origin::here() })
    }

    /// Returns the path that it listens at.
    pub(crate) fn path(&self) -> &Path {
        self.name.path()
    }

    /// Accepts the next connection, as a socket that neither blocks nor outlives an exec. Returns
    /// `None` if there is none.
    ///
    /// # Errors
    /// The kernel's, usually because too many descriptors are open. Then the connection stays in
    /// the backlog, and the socket stays readable.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.socket, flags) {
                Ok(client) => return Ok(Some(client)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Unlinks the name if it is still ours and nobody holds the lock. Does not wait, because a
    /// face may be dropped on an executor's thread, and because a driver's thread closes the
    /// driver's faces when the driver ends.
    fn give_up_name(&self) -> Result<(), ShmError> {
        let Some(_lock) = Lock::try_take(&self.directory)? else { return Ok(()) };
        let named = self.directory.look_at(self.name.file());
        if named.is_ok_and(|named| Inode::of(&named) == self.inode) {
            unlink(&self.directory, self.name.file())
                .map_err(|errno| socket::error("unlinking the socket", errno, self.path()))?;
        }
        Ok(())
    }
}

impl AsFd for ListenerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for ListenerSocket {
    fn drop(&mut self) {
        if !self.origin.has_left() {
            // From here on connects are refused, also while a forked child has a copy of the
            // socket.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
            // Hangs up the connections that nobody has accepted, at most as many as can wait.
            for _ in 0..=BACKLOG {
                let Ok(Some(client)) = self.accept() else { break };
                socket::hang_up(client.as_fd());
            }
            // If this fails, a stale socket remains, and the next engine takes it over.
            let _ = self.give_up_name();
        }
    }
}

fn permissions(mode: u32) -> Result<Mode, ShmError> {
    const ALL: u32 = 0o777;
    if mode & !ALL != 0 {
        let (given, allowed) = (mode.into(), ALL.into());
        return Err(ShmError::InvalidConfig { what: MODE, given, allowed });
    }
    Ok(Mode::from_raw_mode(mode))
}

/// A socket's file on which nobody listens. It is held open, so that its inode's number is not
/// given to another file.
#[derive(Debug)]
pub(super) struct Stale(OwnedFd);

/// Makes sure that nobody serves the name, and returns the socket that has it. Needs the lock.
pub(super) fn expect_stale(directory: &Directory, name: &Name) -> Result<Option<Stale>, ShmError> {
    const STEP: &str = "looking for another engine";
    let (found, errno) = match socket::find(directory.as_fd(), name.file()) {
        Ok(found) => match probe(found.as_fd()) {
            Ok(_somebody) => return Err(name.in_use()),
            Err(errno) => (Some(Stale(found)), errno),
        },
        Err(errno) => (None, errno),
    };
    match ConnectFailure::of(errno, STEP, name.path()) {
        ConnectFailure::Nobody => Ok(found),
        ConnectFailure::Foreign | ConnectFailure::NoSocket => Err(name.in_use()),
        ConnectFailure::Unknown(error) => Err(error),
    }
}

/// Connects to the process that listens on a socket. Needs the lock.
///
/// An engine's `mode` may exclude its own user, and the kernel checks the mode before it checks
/// whether anybody listens. So this gives the owner the right to write for the duration of the
/// check, which the owner could do at any time.
fn probe(found: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    match socket::connect_to(found) {
        Err(Errno::ACCESS) => {}
        outcome => return outcome,
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(found)?.st_mode);
    if mode.contains(Mode::WUSR) || socket::set_mode(found, mode | Mode::WUSR).is_err() {
        return Err(Errno::ACCESS);
    }
    let outcome = socket::connect_to(found);
    // If this process is killed before this, the socket stays open to its owner, which is no risk.
    let _ = socket::set_mode(found, mode);
    outcome
}

/// Listens under the name, in the place of `stale`. Keeps another file that a program without the
/// lock has put there meanwhile. Needs the lock.
pub(super) fn listen(
    directory: &Directory,
    name: &Name,
    stale: Option<Stale>,
    mode: Mode,
) -> Result<(OwnedFd, Inode), ShmError> {
    if let Some(stale) = stale {
        remove(directory, name.file(), stale)
            .map_err(|errno| socket::error("removing a stale socket", errno, name.path()))?;
    }
    match directory.real_path_of(name.file()) {
        Some(path) => listen_at(directory, name, &path, mode),
        None => listen_and_rename(directory, name, mode),
    }
}

/// Removes `stale`, unless another file has its name by now. Needs the lock.
fn remove(directory: &Directory, file: &OsStr, stale: Stale) -> Result<(), Errno> {
    let stale = Inode::of(&rustix::fs::fstat(&stale.0)?);
    match directory.look_at(file) {
        Ok(named) if Inode::of(&named) == stale => unlink(directory, file),
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Listens under the final path, which fits into an address. Needs the lock.
fn listen_at(
    directory: &Directory,
    name: &Name,
    path: &Path,
    mode: Mode,
) -> Result<(OwnedFd, Inode), ShmError> {
    let file = name.file();
    let socket = make_socket()?;
    match SocketAddrUnix::new(path).and_then(|path| rustix::net::bind(&socket, &path)) {
        Ok(()) => {}
        // A program that ignores the lock has bound it.
        Err(Errno::ADDRINUSE) => return Err(name.in_use()),
        Err(errno) => return Err(socket::error(BINDING, errno, path)),
    }
    let inode = expect_bound_below(directory, file, path)?;
    let listening = open_up(directory, file, &socket, mode);
    if listening.is_err() {
        let _ = unlink(directory, file);
    }
    listening.map(|()| (socket, inode))
}

/// Checks that the file that was bound by its whole path lies in the directory that was checked: a
/// directory further up may have been exchanged since. If it lies elsewhere, it is left there.
pub(super) fn expect_bound_below(
    directory: &Directory,
    file: &OsStr,
    path: &Path,
) -> Result<Inode, ShmError> {
    let below = directory.look_at(file).map(|stat| (Inode::of(&stat), stat.st_mode));
    let bound = rustix::fs::lstat(path).map(|stat| (Inode::of(&stat), stat.st_mode));
    match (below, bound) {
        (Ok(below), Ok(bound)) if below == bound && socket::is_socket(below.1) => Ok(below.0),
        _ => {
            let moved = io::Error::other("the directory was moved meanwhile");
            Err(ShmError::io_at(BINDING, path, moved))
        }
    }
}

/// Listens under a short name and renames the socket to its own, whose path does not fit into an
/// address. Needs the lock.
fn listen_and_rename(
    directory: &Directory,
    name: &Name,
    mode: Mode,
) -> Result<(OwnedFd, Inode), ShmError> {
    remove_new(directory)?;
    let socket = make_socket()?;
    let path = directory.path_of(NEW_FILE);
    socket::bind(&socket, directory.as_fd(), NEW_FILE)
        .map_err(|errno| socket::error(BINDING, errno, &path))?;
    // The kernel does not list it by its final path.
    let listening = open_up(directory, NEW_FILE.as_ref(), &socket, mode | Mode::SVTX);
    let listening = listening.and_then(|()| {
        let stat = directory
            .look_at(NEW_FILE)
            .map_err(|errno| socket::error("looking at the socket", errno, &path))?;
        match rename_new(directory, name.file()) {
            Ok(()) => Ok(Inode::of(&stat)),
            Err(Errno::EXIST) => Err(name.in_use()),
            Err(errno) => Err(socket::error("renaming the socket", errno, &path)),
        }
    });
    if listening.is_err() {
        let _ = unlink(directory, NEW_FILE.as_ref());
    }
    listening.map(|inode| (socket, inode))
}

/// Gives the new socket its name, unless a file has it. Needs the lock.
fn rename_new(directory: &Directory, file: &OsStr) -> Result<(), Errno> {
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(directory, NEW_FILE, directory, file, flags) {
        // Not every file system and every kernel can do that.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        outcome => return outcome,
    }
    match directory.look_at(file) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::renameat(directory, NEW_FILE, directory, file),
        Err(errno) => Err(errno),
    }
}

/// Removes the new socket that a crash has left. Needs the lock: only its holder has such a file,
/// so nobody uses this one. In a directory that is not ours, another file may have that name.
fn remove_new(directory: &Directory) -> Result<(), ShmError> {
    const STEP: &str = "removing what a crash left";
    let path = || directory.path_of(NEW_FILE);
    match directory.look_at(NEW_FILE) {
        Ok(stat) if socket::is_socket(stat.st_mode) => unlink(directory, NEW_FILE.as_ref())
            .map_err(|errno| socket::error(STEP, errno, &path())),
        Ok(_) => {
            let kind = io::ErrorKind::AlreadyExists;
            Err(ShmError::io_at(STEP, &path(), io::Error::new(kind, "is not a socket")))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(socket::error(STEP, errno, &path())),
    }
}

/// Makes a socket to be bound. Accepted sockets inherit its options.
fn make_socket() -> Result<OwnedFd, ShmError> {
    let socket = socket::unbound().map_err(ShmError::io("making a socket"))?;
    sockopt::refuse_descriptors(socket.as_fd());
    sockopt::ask_for_process(socket.as_fd(), true);
    Ok(socket)
}

/// Gives a bound socket its mode, and then listens. Until then connects are refused, so the mode
/// that the umask left lets nobody in.
fn open_up(
    directory: &Directory,
    file: &OsStr,
    socket: &OwnedFd,
    mode: Mode,
) -> Result<(), ShmError> {
    rustix::fs::chmodat(directory, file, mode, AtFlags::empty()).map_err(|errno| {
        socket::error("setting the socket's mode", errno, &directory.path_of(file))
    })?;
    rustix::net::listen(socket, BACKLOG).map_err(ShmError::io("listening"))
}

fn unlink(directory: &Directory, file: &OsStr) -> Result<(), Errno> {
    rustix::fs::unlinkat(directory, file, AtFlags::empty())
}

const BINDING: &str = "binding the socket";

/// A directory's lock, held.
#[derive(Debug)]
struct Lock(OwnedFd);

impl Lock {
    /// Takes the lock, and waits a short while if others hold it.
    fn take(directory: &Directory) -> Result<Self, ShmError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            if let Some(lock) = Self::try_take(directory)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                let timed_out = io::Error::new(io::ErrorKind::TimedOut, "somebody else holds it");
                return Err(ShmError::io_at(LOCKING, &directory.path_of(LOCK_FILE), timed_out));
            }
            pause(LOCK_PAUSE);
        }
    }

    /// Takes the lock if nobody holds it.
    fn try_take(directory: &Directory) -> Result<Option<Self>, ShmError> {
        Self::attempt(directory)
            .map_err(|errno| socket::error(LOCKING, errno, &directory.path_of(LOCK_FILE)))
    }

    fn attempt(directory: &Directory) -> Result<Option<Self>, Errno> {
        let lock = Self::open(directory)?;
        match retry_on_intr(|| rustix::fs::flock(&lock.0, FlockOperation::NonBlockingLockExclusive))
        {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        lock.refresh();
        // If a cleaner unlinked it while we took it, the next attempt finds the new file.
        Ok(lock.is_current(directory)?.then_some(lock))
    }

    fn open(directory: &Directory) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // A FIFO or a device in its place must not block us.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::openat(directory, LOCK_FILE, flags, Mode::RUSR | Mode::WUSR).map(Self)
    }

    /// Updates the file's times, so that no cleaner unlinks it while it is held.
    fn refresh(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // Fails for another user's file, which matters little.
        let _ =
            rustix::fs::futimens(&self.0, &Timestamps { last_access: now, last_modification: now });
    }

    /// Whether the file that we locked is the one that others will find.
    fn is_current(&self, directory: &Directory) -> Result<bool, Errno> {
        let ours = rustix::fs::fstat(&self.0)?;
        match directory.look_at(LOCK_FILE) {
            Ok(named) => Ok(Inode::of(&named) == Inode::of(&ours)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that was forked meanwhile has a copy, and would keep the
        // lock.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

const LOCKING: &str = "locking the socket directory";
