//! Names: which engine serves one, and which applications find it and may connect.

mod directory;
mod foreign_servers;
mod lookup;
mod permissions;
mod takeover;

use wakering::{Driver, FaceBuilder, SpscFace};

use crate::common::SMALL;

fn face(driver: &Driver) -> FaceBuilder {
    SpscFace::builder().ring_bytes(SMALL).driver(driver)
}
