//! The glue: one module for each runtime, with nothing else in it. The library's page "Which driver
//! under which runtime" shows each of them literally.

pub mod async_std;
pub mod async_std_threads;
pub mod compio;
pub mod glommio;
pub mod glommio_polled;
pub mod monoio;
pub mod monoio_background;
pub mod pollster;
pub mod pollster_parked;
pub mod futures;
pub mod smol;
pub mod smol_parked;
pub mod smol_threads;
pub mod tokio;
pub mod tokio_threads;
