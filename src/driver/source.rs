//! What a driver waits for, seen from the driver.

use crate::sync::AtomicU32;

/// Something with a bell, descriptors or timers that a driver looks after.
///
/// All calls but `bell` come from the thread that runs the driver, one at a time, with none of the
/// driver's locks held: an implementation may register, watch, cancel and wake as it likes, and
/// must not block. Any of them may come without a cause, so each looks at the state itself. A panic
/// in one of them ends that call and nothing else. None begins after a cancellation that was made
/// on the driver's own thread; after one from another thread, at most the one that was under way.
pub(crate) trait Source: Send + Sync {
    /// The futex word on which the driver keeps a wait armed, if there is one. Always the same
    /// word, mapped for as long as `self` lives. Called from any thread; only looks.
    fn bell(&self) -> Option<&AtomicU32> {
        None
    }

    /// Whether the driver need not wait on the bell again, asked when its wait is over, before
    /// [`on_wake`](Self::on_wake). [`Registration::wait_again`](super::Registration::wait_again)
    /// has it wait again.
    fn lets_bell_go(&self) -> bool {
        false
    }

    /// The bell was counted up, or somebody woke on it for no reason, or asked for this call.
    fn on_wake(&self) {}

    /// The descriptor that was watched under `token` is readable or hung up. It stays so, and this
    /// is called again, until the cause is read or the descriptor is no longer watched.
    fn on_ready(&self, _token: u16) {}

    /// A time that was asked for has come. It may come early or for a wish since forgotten, and it
    /// uses up all wishes: an implementation that still waits for a later time asks again.
    fn on_timer(&self) {}

    /// The driver can wait for nothing more on behalf of this source, or no more for its bell.
    fn on_abandoned(&self) {}

    /// Whether there may be something for a task that has asked the runner to spin
    /// ([`Registration::ask_to_spin`](super::Registration::ask_to_spin)). Only looks; a hint, which
    /// may be wrong both ways.
    fn hint(&self) -> bool {
        false
    }

    /// The hint was true: wakes the task. The request is done with.
    fn on_hint(&self) {}

    /// The runner does not look at the hint any more: wakes all tasks that may have asked. Each
    /// looks for itself, and arms the bell if it finds nothing. `spun` says whether the runner had
    /// time to spin.
    fn look_again(&self, _spun: bool) {}
}
