//! What an embedded driver asks of its executor's io_uring.

use std::os::fd::RawFd;
use std::ptr;
// Not `crate::sync`'s: a number orders nothing, so the models need not explore it.
use std::sync::atomic::{AtomicU64, Ordering};

use super::table::Id;
use crate::sync::AtomicU32;

/// A submission that an [`EmbeddedDriver`](super::EmbeddedDriver) asks its executor to make.
///
/// With the feature `io-uring`, on the targets that the [crate's documentation](crate#targets)
/// lists for it, it converts into an `io_uring::squeue::Entry` of version 0.7 of that crate. With
/// another crate, make the entry from [`operation`](Self::operation) and
/// [`user_data`](Self::user_data).
///
/// To submit it is safe, whatever has happened meanwhile: none of the operations makes the kernel
/// write to this process's memory, and the kernel itself checks the address that it reads. But
/// submit it before its driver is dropped. After that, the word and the descriptor may be others,
/// and a wait for them could take a wake or hold a file that belongs to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a channel sleeps until its submission is made"]
pub struct Submission {
    operation: Operation,
    user_data: u64,
}

/// The operation of a [`Submission`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `IORING_OP_FUTEX_WAIT`, from Linux 6.7 on: waits on a word of 32 bits that processes share.
    /// The flags are [`FUTEX_FLAGS`](Self::FUTEX_FLAGS), the mask is
    /// [`FUTEX_MASK`](Self::FUTEX_MASK).
    FutexWait {
        /// The address of the word.
        address: usize,
        /// The value that the word holds as long as there is something to wait for.
        value: u32,
    },
    /// `IORING_OP_POLL_ADD`, not multishot: waits until this descriptor is readable
    /// ([`POLL_EVENTS`](Self::POLL_EVENTS)). It is an epoll set of the driver's.
    PollAdd {
        /// The descriptor, which the driver keeps open until it is dropped.
        descriptor: RawFd,
    },
    /// `IORING_OP_ASYNC_CANCEL`: cancels the submission with this user data.
    Cancel {
        /// The user data of the former submission.
        user_data: u64,
    },
}

impl Operation {
    /// `FUTEX2_SIZE_U32`, without `FUTEX2_PRIVATE`.
    pub const FUTEX_FLAGS: u32 = 2;
    /// `FUTEX_BITSET_MATCH_ANY`: every wake matches.
    pub const FUTEX_MASK: u64 = u32::MAX as u64;
    /// `POLLIN`. (Written out: rustix's flags are as wide as its backend's.)
    pub const POLL_EVENTS: u32 = 1;

    /// Waits on `word`, as long as it holds `value`.
    pub(super) fn wait(word: &AtomicU32, value: u32) -> Self {
        Self::FutexWait { address: ptr::from_ref(word).expose_provenance(), value }
    }
}

impl Submission {
    /// Returns what the kernel is to do.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Returns the user data of the submission, by which its completion is known.
    pub fn user_data(&self) -> u64 {
        self.user_data
    }

    /// Whether a submission of an embedded driver has this user data, be it a driver that is gone.
    ///
    /// For executors that go on to use their ring after a driver is gone: its completions may still
    /// come. The uppermost byte of the user data is 0xb3. This is neither the address of an object
    /// (but for a tagged pointer) nor a small number.
    pub fn is_user_data(user_data: u64) -> bool {
        user_data >> TAG_SHIFT == u64::from(TAG)
    }
}

/// What a submission is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The wait on the bell of a registration.
    Bell,
    /// The wait on the control word.
    Control,
    /// The poll of the epoll set.
    Poll,
    /// A cancellation.
    Cancel,
}

const KINDS: [Kind; 4] = [Kind::Bell, Kind::Control, Kind::Poll, Kind::Cancel];

/// The uppermost byte of the user data.
const TAG: u8 = 0xb3;
const TAG_SHIFT: u32 = 56;
/// Below the tag: the number of the driver.
const NUMBER_SHIFT: u32 = 44;
const NUMBER_MASK: u64 = 0xfff;
/// Below that: the registration, which is above this token in its packed form.
const TOKEN_BITS: u32 = 16;
/// Lowest: the kind.
const KIND_BITS: u32 = 2;
const KIND_MASK: u64 = 3;

/// Makes the submissions of one driver, and tells their completions from those of other drivers in
/// the same ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Submitter {
    /// Differs from that of the 4095 drivers before.
    number: u64,
}

impl Submitter {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // ORDERING: Relaxed; a number, which publishes nothing.
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed) & NUMBER_MASK }
    }

    pub(super) fn wait(self, id: Id, kind: Kind, word: &AtomicU32, value: u32) -> Submission {
        self.submission(id, kind, Operation::wait(word, value))
    }

    pub(super) fn poll(self, descriptor: RawFd) -> Submission {
        self.submission(Id::OWN, Kind::Poll, Operation::PollAdd { descriptor })
    }

    pub(super) fn cancel(self, id: Id, kind: Kind) -> Submission {
        let user_data = self.user_data(id, kind);
        self.submission(Id::OWN, Kind::Cancel, Operation::Cancel { user_data })
    }

    fn submission(self, id: Id, kind: Kind, operation: Operation) -> Submission {
        Submission { operation, user_data: self.user_data(id, kind) }
    }

    fn user_data(self, id: Id, kind: Kind) -> u64 {
        u64::from(TAG) << TAG_SHIFT
            | self.number << NUMBER_SHIFT
            | id.pack(0) >> TOKEN_BITS << KIND_BITS
            | kind as u64
    }

    /// Returns what the user data says, or `None` if no submission of this driver has it.
    pub(super) fn read(self, user_data: u64) -> Option<(Id, Kind)> {
        let number = user_data >> NUMBER_SHIFT & NUMBER_MASK;
        if !Submission::is_user_data(user_data) || number != self.number {
            return None;
        }
        let (id, _) = Id::unpack(user_data >> KIND_BITS << TOKEN_BITS);
        Some((id, KINDS[(user_data & KIND_MASK) as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::table::Ids;

    #[test]
    fn user_data_tells_the_registration_and_the_kind() {
        let mut ids = Ids::default();
        let id = std::iter::repeat_with(|| ids.take().unwrap()).nth(300).unwrap();
        ids.give_back(id);
        let submitter = Submitter::new();
        for id in [id, ids.take().unwrap(), Id::OWN] {
            for kind in KINDS {
                let user_data = submitter.user_data(id, kind);
                assert!(Submission::is_user_data(user_data));
                assert_eq!(submitter.read(user_data), Some((id, kind)));
            }
        }
    }

    #[test]
    fn user_data_of_others_is_not_ours() {
        let (submitter, another) = (Submitter::new(), Submitter::new());
        let anothers = another.user_data(Id::OWN, Kind::Bell);
        assert!(Submission::is_user_data(anothers));
        assert_eq!(submitter.read(anothers), None);
        let another_tag = submitter.user_data(Id::OWN, Kind::Bell) ^ 1 << TAG_SHIFT;
        for others in [0, 1, u64::MAX, another_tag, 0x7fff_ffff_f000] {
            assert!(!Submission::is_user_data(others), "{others:#x}");
            assert_eq!(submitter.read(others), None, "{others:#x}");
        }
    }
}
