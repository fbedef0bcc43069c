//! What a driver shares with the threads that use it.
//!
//! | word | written by | read by | what it says |
//! |---|---|---|---|
//! | `inbox` (locked) | everyone | the driver | what to do, and until when the driver sleeps |
//! | `control` | everyone, after the inbox | the driver | counted up to end a sleep |
//! | `Link::alarm` | its registration lowers it, the driver clears it | both | the earliest wish |
//! | `Link::nudged` | its registration sets it, the driver clears it | both | a nudge is under way |
//! | `Link::cancelled` | its registration, once | the driver | call the source no more |
//!
//! Going to sleep and giving the driver something to do exclude each other by the inbox's lock:
//! either the command is there when the driver looks, or `asleep_until` is there for the one who
//! pushes it. Whoever sees the driver asleep marks it awake, so that a sleep is interrupted once.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::Backend;
use super::source::Source;
use super::table::{Id, Ids};
use crate::error::ShmError;
use crate::futex;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering, lock};

/// No alarm, on the driver's clock.
pub(super) const NEVER: u64 = u64::MAX;

/// In `asleep_until`: the driver runs, or is about to look into the inbox.
const AWAKE: u64 = 0;

/// What a registration and the driver say to each other without the inbox.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: Id,
    /// The earliest time asked for that the driver has not called for yet.
    alarm: AtomicU64,
    nudged: AtomicU32,
    cancelled: AtomicU32,
}

impl Link {
    fn new(id: Id) -> Self {
        Self {
            id,
            alarm: AtomicU64::new(NEVER),
            nudged: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
        }
    }

    /// Notes a wish; says whether it is earlier than what the driver was told already.
    pub(super) fn lower_alarm(&self, at: u64) -> bool {
        // ORDERING: AcqRel, and a read-modify-write even where the value stays: it comes either
        // before the one in `clear_alarm`, which then makes all that the caller wrote visible to
        // the source, or after it, and then it finds NEVER and the driver is told.
        self.alarm.fetch_min(at, Ordering::AcqRel) > at
    }

    /// Before the source is called for its alarm: wishes from now on are new ones.
    pub(super) fn clear_alarm(&self) {
        // ORDERING: AcqRel; pairs with `lower_alarm`.
        self.alarm.swap(NEVER, Ordering::AcqRel);
    }

    /// Notes a nudge; says whether none was under way.
    pub(super) fn begin_nudge(&self) -> bool {
        // ORDERING: AcqRel; pairs with `end_nudge` as `lower_alarm` does with `clear_alarm`.
        self.nudged.swap(1, Ordering::AcqRel) == 0
    }

    /// Before the source is called for a nudge.
    pub(super) fn end_nudge(&self) {
        // ORDERING: AcqRel; pairs with `begin_nudge`.
        self.nudged.swap(0, Ordering::AcqRel);
    }

    /// Says whether this was the first time.
    pub(super) fn begin_cancel(&self) -> bool {
        // ORDERING: Relaxed; the flag alone matters, and the command behind it goes by the inbox.
        self.cancelled.swap(1, Ordering::Relaxed) == 0
    }

    pub(super) fn is_cancelled(&self) -> bool {
        // ORDERING: Relaxed; as in `begin_cancel`. On the cancelling thread itself program order
        // suffices.
        self.cancelled.load(Ordering::Relaxed) != 0
    }
}

/// Something for the driver to do.
pub(super) enum Command {
    /// Look after a source; its bell was last seen at `seen`.
    Admit { link: Arc<Link>, source: Arc<dyn Source>, seen: u32 },
    /// Call `rung`.
    Nudge(Id),
    /// Call `alarm` at this time.
    Alarm(Id, u64),
    /// Let go of a source.
    Retire(Id),
    /// End, as soon as no source is left.
    Stop,
}

impl Command {
    /// The time by which the driver must be up to do it.
    fn due(&self) -> u64 {
        match self {
            Self::Alarm(_, at) => *at,
            _ => AWAKE + 1,
        }
    }
}

#[derive(Default)]
struct Inbox {
    commands: Vec<Command>,
    ids: Ids,
    /// `AWAKE`, or the time on the driver's clock at which it means to wake up by itself.
    asleep_until: u64,
    /// The driver has ended and nobody will look into `commands` again.
    closed: bool,
}

impl Inbox {
    /// Adds a command; says whether the driver has to be interrupted for it.
    fn push(&mut self, command: Command) -> bool {
        let interrupt = command.due() < self.asleep_until;
        self.commands.push(command);
        if interrupt {
            self.asleep_until = AWAKE;
        }
        interrupt
    }
}

/// How a sleeping driver is interrupted.
enum Interrupt {
    /// Its ring waits on the control word.
    Futex,
    /// Its epoll set holds this eventfd.
    EventFd(OwnedFd),
}

/// One driver, as all threads see it.
pub(super) struct Shared {
    backend: Backend,
    /// The set that holds every descriptor that is watched.
    epoll: OwnedFd,
    control: AtomicU32,
    interrupt: Interrupt,
    inbox: Mutex<Inbox>,
    /// Zero of the driver's clock.
    epoch: Instant,
}

impl Shared {
    pub(super) fn new(backend: Backend) -> Result<Arc<Self>, ShmError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(ShmError::io("epoll_create1"))?;
        let interrupt = match backend {
            Backend::Epoll => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .map_err(ShmError::io("eventfd"))?;
                let data = epoll::EventData::new_u64(Id::OWN.pack(0));
                epoll::add(&epoll, &event, data, epoll::EventFlags::IN)
                    .map_err(ShmError::io("epoll_ctl"))?;
                Interrupt::EventFd(event)
            }
            Backend::Auto | Backend::IoUring => Interrupt::Futex,
        };
        let inbox = Mutex::new(Inbox::default());
        let control = AtomicU32::new(0);
        Ok(Arc::new(Self { backend, epoll, control, interrupt, inbox, epoch: Instant::now() }))
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// The futex word that ends the sleep of a driver with a ring.
    pub(super) fn control(&self) -> &AtomicU32 {
        &self.control
    }

    /// A time on the driver's clock: nanoseconds from its start, neither `AWAKE` nor `NEVER`.
    pub(super) fn clock(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(NEVER).clamp(AWAKE + 1, NEVER - 1)
    }

    /// How long it is until then. Nothing for a time that has passed.
    pub(super) fn until(&self, at: u64) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.clock(Instant::now())))
    }

    /// Gives the driver something to do; it is dropped if the driver has ended.
    pub(super) fn push(&self, command: Command) {
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            // What the command holds is dropped outside of the lock.
            drop(inbox);
            return;
        }
        let interrupt = inbox.push(command);
        drop(inbox);
        if interrupt {
            self.interrupt();
        }
    }

    /// Gives the driver a source.
    pub(super) fn admit(&self, source: Arc<dyn Source>, seen: u32) -> Result<Arc<Link>, ShmError> {
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            let gone = std::io::Error::other("the driver has ended");
            return Err(ShmError::Io { step: "register with the driver", source: gone });
        }
        let Some(id) = inbox.ids.take() else {
            return Err(ShmError::Unsupported { reason: "more than 2^24 endpoints on one driver" });
        };
        let link = Arc::new(Link::new(id));
        let interrupt = inbox.push(Command::Admit { link: link.clone(), source, seen });
        drop(inbox);
        if interrupt {
            self.interrupt();
        }
        Ok(link)
    }

    /// Takes an identity back that no event and no completion can bear any more.
    pub(super) fn release(&self, id: Id) {
        lock(&self.inbox).ids.give_back(id);
    }

    /// Swaps the waiting commands into `batch`, which is empty.
    pub(super) fn take(&self, batch: &mut Vec<Command>) {
        std::mem::swap(&mut lock(&self.inbox).commands, batch);
    }

    /// The driver is about to sleep until `until`. If there is something to do instead, that is
    /// swapped into `batch`, which is empty, and the answer is false.
    pub(super) fn fall_asleep(&self, until: u64, batch: &mut Vec<Command>) -> bool {
        let mut inbox = lock(&self.inbox);
        if inbox.commands.is_empty() {
            inbox.asleep_until = until;
            true
        } else {
            std::mem::swap(&mut inbox.commands, batch);
            false
        }
    }

    /// The driver is up and will look into the inbox before it sleeps again.
    pub(super) fn wake_up(&self) {
        lock(&self.inbox).asleep_until = AWAKE;
    }

    /// The driver ends; what nobody will do any more is returned.
    pub(super) fn close(&self) -> Vec<Command> {
        let mut inbox = lock(&self.inbox);
        inbox.closed = true;
        std::mem::take(&mut inbox.commands)
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.inbox).closed
    }

    fn interrupt(&self) {
        match &self.interrupt {
            Interrupt::Futex => {
                // ORDERING: Release, as for every bell; the commands themselves go by the lock.
                self.control.fetch_add(1, Ordering::Release);
                futex::wake(&self.control);
            }
            Interrupt::EventFd(event) => {
                // Fails only when the counter is full, and then the descriptor is readable.
                let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
            }
        }
    }

    /// Makes the eventfd wait for the next interrupt.
    pub(super) fn clear_interrupt(&self) {
        if let Interrupt::EventFd(event) = &self.interrupt {
            let _ = rustix::io::read(event, &mut [0_u8; 8]);
        }
    }

    /// When the driver means to wake up by itself; 0 while it is awake.
    #[cfg(test)]
    pub(super) fn asleep_until(&self) -> u64 {
        lock(&self.inbox).asleep_until
    }
}
