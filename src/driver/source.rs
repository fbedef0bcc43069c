//! What a driver waits for, seen from the driver.

use crate::sync::AtomicU32;

/// Something with a bell, descriptors or alarms that a driver looks after.
///
/// All calls come from the thread that runs the driver, one at a time, with none of the driver's
/// locks held: an implementation may register, watch and wake as it likes, and must not block.
pub(crate) trait Source: Send + Sync {
    /// The futex word on which the driver keeps a wait armed, if there is one. Always the same
    /// word, mapped for as long as `self` lives.
    fn bell(&self) -> Option<&AtomicU32> {
        None
    }

    /// The bell was counted up, or somebody woke on it for no reason.
    fn rung(&self) {}

    /// The descriptor that was watched under `token` is readable or hung up. It stays so, and this
    /// is called again, until the cause is read or the descriptor is no longer watched.
    fn ready(&self, _token: u16) {}

    /// A time that was asked for has come. It may come early or for a wish since forgotten.
    fn alarm(&self) {}

    /// The driver can wait for nothing more on behalf of this source.
    fn abandoned(&self) {}
}
