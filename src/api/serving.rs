//! An acceptor in the care of a driver.

use std::sync::{Arc, OnceLock};

use crate::driver::{Binding, Registration, Source};
use crate::error::ShmError;
use crate::rendezvous::{Acceptor, Host};

/// Whom an acceptor serves.
pub(super) trait Served: Host + Send + Sync + 'static {
    /// The driver is gone: nobody will accept any more.
    fn driver_gone(&self) {}
}

/// An acceptor, its host, and the driver that tells what is ready.
#[derive(Debug)]
pub(super) struct Serving<H> {
    pub(super) acceptor: Acceptor,
    pub(super) host: H,
    driver: OnceLock<Registration>,
}

impl<H: Served> Serving<H> {
    /// Puts the acceptor into the driver's care.
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

    /// Accepts no more, and gives the name up.
    pub(super) fn close(&self) {
        if let Some(driver) = self.driver.get() {
            self.acceptor.close(driver);
        }
    }

    /// Also leaves the driver.
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
        // Better that applications are told.
        self.close();
        self.host.driver_gone();
    }
}
