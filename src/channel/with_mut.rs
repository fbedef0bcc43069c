//! Access to a producer or consumer: by exclusive reference from a half, by lock from a whole end.

use crate::sync::{Mutex, lock};

/// Access to an `E`. The `work` must be short and must not call foreign code.
pub(crate) trait WithMut<E> {
    fn with<R>(&mut self, work: impl FnOnce(&mut E) -> R) -> R;
}

impl<E> WithMut<E> for &mut E {
    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut E) -> R) -> R {
        work(self)
    }
}

impl<E> WithMut<E> for &Mutex<E> {
    #[inline]
    fn with<R>(&mut self, work: impl FnOnce(&mut E) -> R) -> R {
        work(&mut lock(self))
    }
}
