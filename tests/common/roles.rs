//! A channel between this process and a child of it. Either may be the engine.

use wakering::{Driver, Endpoint, SpscFace, SpscHandle};

use super::SMALL;
use super::child::Child;

/// Returns the role of the peer of `role`.
pub fn other(role: &str) -> &'static str {
    if role == "engine" { "application" } else { "engine" }
}

/// Returns an end of the channel `name`, with small rings and sends without a deadline.
pub fn open(driver: &Driver, role: &str, name: &str) -> Endpoint {
    open_with(driver, role, name, SMALL)
}

/// Does the same with rings of this size.
pub fn open_with(driver: &Driver, role: &str, name: &str, ring_bytes: usize) -> Endpoint {
    if role == "engine" {
        let face = SpscFace::builder().ring_bytes(ring_bytes).send_timeout(None).driver(driver);
        face.create(name).unwrap().into()
    } else {
        SpscHandle::builder().send_timeout(None).driver(driver).connect(name).unwrap().into()
    }
}

/// Returns this process's end, and a child that runs the test `child`. The arguments of the child
/// are the backend, the other role, the name and `more`. A child that is the engine says "open"
/// when it has made its end.
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
