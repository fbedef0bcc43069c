//! A channel between this process and a child of it, either of which may be the engine.

use wakering::{Driver, Endpoint, SpscFace, SpscHandle};

use super::SMALL;
use super::child::Child;

/// The role of the one whose peer has this role.
pub fn other(role: &str) -> &'static str {
    if role == "engine" { "application" } else { "engine" }
}

/// An end of the channel called `name`, whose rings are small, and whose sends wait for as long as
/// it takes.
pub fn open(driver: &Driver, role: &str, name: &str) -> Endpoint {
    open_with(driver, role, name, SMALL)
}

/// The same, with rings of this size.
pub fn open_with(driver: &Driver, role: &str, name: &str, ring_bytes: usize) -> Endpoint {
    if role == "engine" {
        let face = SpscFace::builder().ring_bytes(ring_bytes).send_timeout(None).driver(driver);
        face.create(name).unwrap().into()
    } else {
        SpscHandle::builder().send_timeout(None).driver(driver).connect(name).unwrap().into()
    }
}

/// This process's end, and a child that runs the test `child` with the backend, the other role, the
/// name and `more`. It says "open" when it has made an engine's end.
pub fn beside(
    driver: &Driver,
    role: &str,
    name: &str,
    child: &str,
    more: &[&str],
) -> (Endpoint, Child) {
    let backend = driver.backend().to_string();
    let arguments = [&[backend.as_str(), other(role), name], more].concat();
    if role == "engine" {
        let end = open(driver, role, name);
        (end, Child::start(child, &arguments))
    } else {
        let mut child = Child::start(child, &arguments);
        child.expect("open");
        (open(driver, role, name), child)
    }
}
