//! What an embedded driver asks of its executor's io_uring.

use std::os::fd::RawFd;

use super::table::Id;

/// A submission that an [`EmbeddedDriver`](super::EmbeddedDriver) asks its executor to make.
///
/// With the feature `io-uring`, on the targets that the [crate's documentation](crate#targets)
/// lists for it, it converts into an `io_uring::squeue::Entry` of version 0.7 of that crate. With
/// another crate, make the entry from [`operation`](Self::operation) and
/// [`user_data`](Self::user_data).
///
/// To submit it is safe, whatever has happened meanwhile: none of the operations makes the kernel
/// write to this process's memory, and the kernel itself checks the address that it reads.
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
        /// The descriptor, which the driver keeps open.
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
    /// `POLLIN`.
    pub const POLL_EVENTS: u32 = 1;
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

    pub(super) fn wait(id: Id, kind: Kind, address: usize, value: u32) -> Self {
        let operation = Operation::FutexWait { address, value };
        Self { operation, user_data: user_data(id, kind) }
    }

    pub(super) fn poll(descriptor: RawFd) -> Self {
        let operation = Operation::PollAdd { descriptor };
        Self { operation, user_data: user_data(Id::OWN, Kind::Poll) }
    }

    pub(super) fn cancel(id: Id, kind: Kind) -> Self {
        let operation = Operation::Cancel { user_data: user_data(id, kind) };
        Self { operation, user_data: user_data(Id::OWN, Kind::Cancel) }
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
    /// A cancellation; its own result is ignored.
    Cancel,
}

const KINDS: [Kind; 4] = [Kind::Bell, Kind::Control, Kind::Poll, Kind::Cancel];

/// The uppermost byte of the user data of an embedded driver's submissions. No address of a process
/// and no small number has this bit pattern there.
pub(super) const TAG: u8 = 0xb3;

const TAG_SHIFT: u32 = 56;
const ID_SHIFT: u32 = 8;
/// Where [`Id::pack`] has its token, which the kind replaces here.
const TOKEN_BITS: u32 = 16;

fn user_data(id: Id, kind: Kind) -> u64 {
    u64::from(TAG) << TAG_SHIFT | id.pack(0) >> TOKEN_BITS << ID_SHIFT | kind as u64
}

/// Returns what the user data of a submission says, or `None` if none of ours has it.
pub(super) fn of_user_data(user_data: u64) -> Option<(Id, Kind)> {
    let [tag, .., kind] = user_data.to_be_bytes();
    let kind = KINDS.get(usize::from(kind))?;
    let (id, _) = Id::unpack(user_data >> ID_SHIFT << TOKEN_BITS);
    (tag == TAG).then_some((id, *kind))
}

#[cfg(all(
    not(all(test, loom)),
    feature = "io-uring",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    )
))]
impl From<Submission> for io_uring::squeue::Entry {
    fn from(submission: Submission) -> Self {
        use io_uring::{opcode, types::Fd};

        let entry = match submission.operation {
            Operation::FutexWait { address, value } => opcode::FutexWait::new(
                std::ptr::with_exposed_provenance(address),
                u64::from(value),
                Operation::FUTEX_MASK,
                Operation::FUTEX_FLAGS,
            )
            .build(),
            Operation::PollAdd { descriptor } => {
                opcode::PollAdd::new(Fd(descriptor), Operation::POLL_EVENTS).build()
            }
            Operation::Cancel { user_data } => opcode::AsyncCancel::new(user_data).build(),
        };
        entry.user_data(submission.user_data)
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
        for id in [id, Id::OWN] {
            for kind in KINDS {
                assert_eq!(of_user_data(user_data(id, kind)), Some((id, kind)));
            }
        }
    }

    #[test]
    fn user_data_of_others_is_not_ours() {
        let ours = user_data(Id::OWN, Kind::Bell);
        let another_kind = ours | 0x7f;
        let another_tag = ours ^ 1 << TAG_SHIFT;
        for others in [0, 1, u64::MAX, another_kind, another_tag, 0x7fff_ffff_f000] {
            assert_eq!(of_user_data(others), None, "{others:#x}");
        }
    }
}
