//! A polled driver and the future that needs it, in one task.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::polled::PolledDriver;
use crate::driver::notify_flag::NotifyFlag;
use crate::error::ShmError;

/// So many turns of a driver that is readable again at once, before other tasks are let in.
const ROUNDS: usize = 8;

/// See [`PolledDriver::drive`].
pub(super) async fn drive<F, R>(
    driver: &PolledDriver,
    mut readable: impl FnMut() -> R,
    future: F,
) -> Result<F::Output, ShmError>
where
    F: Future,
    R: Future<Output = io::Result<()>>,
{
    let flag = NotifyFlag::new();
    let waker = Waker::from(flag.clone());
    let (mut future, mut edge) = (pin!(future), pin!(None::<R>));
    std::future::poll_fn(move |cx| {
        flag.begin();
        for _ in 0..ROUNDS {
            let is_due = match edge.as_mut().as_pin_mut().map(|edge| edge.poll(cx)) {
                Some(Poll::Pending) => false,
                Some(Poll::Ready(waited)) => {
                    waited.map_err(ShmError::io("waiting for the driver's descriptor"))?;
                    true
                }
                // For the first time.
                None => true,
            };
            if is_due {
                turn(driver)?;
                edge.set(Some(readable()));
            }
            if flag.take() {
                let mut cx = Context::from_waker(&waker);
                if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                    return Poll::Ready(Ok(output));
                }
                if flag.is_woken() {
                    // By itself, as one does that lets others in.
                    break;
                }
            } else if !is_due && flag.rest(cx.waker()) {
                return Poll::Pending;
            }
        }
        // There is more to do: no wake will come for it.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// One turn, or none.
fn turn(driver: &PolledDriver) -> Result<(), ShmError> {
    match driver.turn() {
        // Another thread turns it. Or the kernel failed, and then the descriptor stays readable
        // until that is over, or the driver is given up.
        Err(ShmError::Io { .. }) => Ok(()),
        turned => turned.map(drop),
    }
}
