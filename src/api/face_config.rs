//! The checked settings of faces.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::endpoint::Endpoint;
use crate::channel::Options;
use crate::driver::Binding;
use crate::error::ShmError;
use crate::shm::layout::{Geometry, Side};
use crate::shm::region::Region;

/// Checked settings, from which faces are made.
#[derive(Debug)]
pub(crate) struct FaceConfig {
    pub(super) geometry: Geometry,
    pub(super) prefault: bool,
    /// Under which name applications find the faces, if there is one; for tools.
    pub(super) label: Option<Box<str>>,
    pub(super) options: Options,
    /// A `Binding`, not a `Driver`: a listener's driver keeps the listener, which keeps this.
    pub(super) driver: Binding,
}

impl FaceConfig {
    /// Creates a region, and returns the face's end and the region's file for the other end.
    pub(crate) fn make(&self) -> Result<(Endpoint, OwnedFd), ShmError> {
        let (region, file) = Region::create(self.geometry, self.prefault, self.label.as_deref())?;
        let endpoint = Endpoint::open(Arc::new(region), Side::Face, self.options, &self.driver)?;
        Ok((endpoint, file))
    }
}
