//! What a driver waits for, from the driver's point of view.

use crate::sync::AtomicU32;

/// Something with a bell, descriptors or timers that a driver serves.
///
/// All calls except `bell` come from the thread that runs the driver, one at a time, with none of
/// the driver's locks held. An implementation may register, watch, cancel and wake, and must not
/// block. Any call may come without a cause, so each checks the state itself. A panic in a call
/// ends that call and nothing else. No call begins after a cancellation that was made on the
/// driver's own thread. After a cancellation from another thread, at most the call that was under
/// way continues.
pub(crate) trait Source: Send + Sync {
    /// Returns the futex word on which the driver keeps a wait armed, if there is one. Always the
    /// same word, mapped for as long as `self` lives. Called from any thread; has no side effects.
    fn bell(&self) -> Option<&AtomicU32> {
        None
    }

    /// Whether the driver need not wait on the bell again. The driver asks this when its wait is
    /// over, before [`on_wake`](Self::on_wake).
    /// [`Registration::wait_again`](super::Registration::wait_again) makes it wait again.
    fn lets_bell_go(&self) -> bool {
        false
    }

    /// The bell was counted up, the wait on it was woken without a reason, or this call was
    /// requested.
    fn on_wake(&self) {}

    /// The descriptor that was watched under `token` is readable or hung up. It stays so, and this
    /// is called again, until the cause is read or the descriptor is no longer watched.
    fn on_ready(&self, _token: u16) {}

    /// A requested time has come. The call may come early or for a request since forgotten, and it
    /// uses up all requests: an implementation that still waits for a later time asks again.
    fn on_timer(&self) {}

    /// The driver can no longer wait for anything on behalf of this source, or no longer on its
    /// bell.
    fn on_abandoned(&self) {}

    /// Whether there may be something for a task that has asked the driver to spin
    /// ([`Registration::ask_to_spin`](super::Registration::ask_to_spin)). A hint without side
    /// effects, which may be wrong both ways.
    fn hint(&self) -> bool {
        false
    }

    /// The hint was true: wakes the task. The request has ended.
    fn on_hint(&self) {}

    /// The driver no longer checks the hint: wakes all tasks that may have asked. Each checks for
    /// itself, and arms the bell if it finds nothing. `spun` says whether the driver had time to
    /// spin.
    fn look_again(&self, _spun: bool) {}
}
