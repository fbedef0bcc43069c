//! Everything that is measured: a file a system, and the list of them all.

use crate::system::System;

mod bare_ring;
mod in_process;
mod ipc_channel;
mod iceoryx2;
mod limits;
mod limits_asleep;
mod ringfire;
mod shmem_ipc;
mod unix;
mod unix_smol;
mod wakering;
mod words;

/// All of them, in the order of the tables.
pub(crate) fn all() -> impl Iterator<Item = &'static System> {
    [
        limits::SYSTEMS,
        limits_asleep::SYSTEMS,
        bare_ring::SYSTEMS,
        wakering::bytes::SYSTEMS,
        wakering::embedded::SYSTEMS,
        wakering::in_place::SYSTEMS,
        wakering::items::SYSTEMS,
        wakering::idle::SYSTEMS,
        ringfire::SYSTEMS,
        iceoryx2::SYSTEMS,
        shmem_ipc::SYSTEMS,
        ipc_channel::SYSTEMS,
        unix::SYSTEMS,
        unix_smol::SYSTEMS,
        in_process::SYSTEMS,
    ]
    .into_iter()
    .flatten()
}

pub(crate) fn find(name: &str) -> Option<&'static System> {
    all().find(|system| system.name == name)
}
