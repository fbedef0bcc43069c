//! An acceptor that is registered with a driver.

use std::sync::{Arc, OnceLock};

use crate::driver::{Binding, Registration, Source};
use crate::error::ShmError;
use crate::rendezvous::{Acceptor, Host};

/// What an acceptor serves.
pub(super) trait Served: Host + Send + Sync + 'static {
    /// Called when the driver is gone: nobody will accept any more.
    fn driver_gone(&self) {}
}

/// An acceptor, its host, and the driver that reports what is ready.
#[derive(Debug)]
pub(super) struct Serving<H> {
    pub(super) acceptor: Acceptor,
    pub(super) host: H,
    driver: OnceLock<Registration>,
}

impl<H: Served> Serving<H> {
    /// Registers the acceptor with the driver.
    pub(super) fn start(
        acceptor: Acceptor,
        host: H,
        driver: &Binding,
    ) -> Result<Arc<Self>, ShmError> {
        let serving = Arc::new(Self { acceptor, host, driver: OnceLock::new() });
        let registration = driver.register(serving.clone())?;
        let registration = serving.driver.get_or_init(|| registration);
        match serving.acceptor.open(registration) {
            Ok(()) => Ok(serving),
            Err(error) => {
                serving.end();
                Err(error)
            }
        }
    }

    /// Stops accepting, and gives up the name.
    pub(super) fn close(&self) {
        if let Some(driver) = self.driver.get() {
            self.acceptor.close(driver);
        }
    }

    /// Does the same as `close`, and leaves the driver.
    pub(super) fn end(&self) {
        self.close();
        if let Some(driver) = self.driver.get() {
            driver.cancel();
        }
    }
}

impl<H: Served> Source for Serving<H> {
    fn on_ready(&self, token: u16) {
        if let Some(driver) = self.driver.get() {
            self.acceptor.on_ready(token, driver, &self.host);
        }
    }

    fn on_timer(&self) {
        if let Some(driver) = self.driver.get() {
            self.acceptor.on_timer(driver, &self.host);
        }
    }

    fn on_abandoned(&self) {
        // Closes the name, so that applications get an error instead of no answer.
        self.close();
        self.host.driver_gone();
    }
}
