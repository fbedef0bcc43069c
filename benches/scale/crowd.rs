//! Channels on one driver, with applications at their other ends.

use std::time::Duration;

use wakering::{SpscFace, SpscListener};

use crate::application::{Application, Place};
use crate::descriptors;
use crate::runner::Runner;

/// How the channels of a crowd are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Settings {
    /// How long their ends spin; as long as they do without it.
    pub(crate) spin: Option<Duration>,
    /// Of their rings, whose memory is then there from the start; as by default without it.
    pub(crate) ring_bytes: Option<usize>,
}

/// Makes this many channels, with applications at their other ends.
pub(crate) fn gather(
    runner: &Runner,
    channels: usize,
    settings: Settings,
    place: &Place,
) -> (Vec<SpscFace>, Vec<Application>) {
    let backend = runner.driver().backend();
    let name = place.sockets.name(&format!("{backend}-{channels}"));
    let listener = listener(runner, settings, &name);
    let room = descriptors::of_an_application();
    let (mut faces, mut applications) = (Vec::new(), Vec::new());
    for first in (0..channels).step_by(room) {
        let some = room.min(channels - first);
        applications.push(Application::start(&place.core, backend, settings.spin, &name, some));
        let accept = || runner.block_on(listener.accept()).expect("an application");
        faces.extend((0..some).map(|_| accept()));
    }
    (faces, applications)
}

fn listener(runner: &Runner, settings: Settings, name: &str) -> SpscListener {
    let mut builder = SpscListener::builder().driver(runner.driver());
    if let Some(spin) = settings.spin {
        builder = builder.spin(spin);
    }
    if let Some(bytes) = settings.ring_bytes {
        builder = builder.ring_bytes(bytes).prefault(true);
    }
    builder.bind(name).expect("a name of our own")
}
