//! The way over two bridges.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wakering::{ShmError, SpscHandle};

use super::far::{COUNT, ECHO, Process};
use super::plain::free_endpoint;
use super::sample::{Way, median_trip};
use crate::Result;

/// Both bridges and the engine. Each figure is that of a new application.
#[derive(Debug)]
pub struct Bridged {
    engine: Process,
    _bridges: [Process; 2],
    name: String,
    directory: PathBuf,
}

impl Bridged {
    pub fn start() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("wakering-zenoh-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        // Two names, because both ends are on this machine.
        let [far, name] =
            ["engine", "import"].map(|name| directory.join(name).display().to_string());
        let mut engine = Process::start(&["far", "engine", &far])?;
        engine.hear()?;
        let endpoint = free_endpoint()?;
        let common = ["--key", "bench/bridge", "--no-multicast"];
        let start = |role, name: &str, link| {
            Process::start(&[&[role, name, link, &endpoint], &common[..]].concat())
        };
        let export = start("export", &far, "--listen")?;
        let import = start("import", &name, "--connect")?;
        Ok(Self { engine, _bridges: [export, import], name, directory })
    }

    fn connect(&self, task: &'static [u8]) -> Result<SpscHandle> {
        loop {
            match SpscHandle::connect(&self.name) {
                Err(ShmError::NotFound { .. }) => std::thread::sleep(Duration::from_millis(10)),
                connected => {
                    let handle = connected?;
                    handle.send_blocking(task.into())?;
                    return Ok(handle);
                }
            }
        }
    }
}

impl Way for Bridged {
    fn round_trip(&mut self, bytes: usize, turn: Duration) -> Result<f64> {
        let (handle, packet) = (self.connect(ECHO)?, Bytes::from(vec![7; bytes]));
        median_trip(turn, || {
            handle.send_blocking(packet.clone())?;
            handle.recv_blocking().ok_or("the channel ended")?;
            Ok(())
        })
    }

    fn stream(&mut self, bytes: usize, turn: Duration) -> Result<f64> {
        let (handle, packet) = (self.connect(COUNT)?, Bytes::from(vec![7; bytes]));
        let begin = Instant::now();
        while begin.elapsed() < turn {
            for _ in 0..64 {
                handle.send_blocking(packet.clone())?;
            }
        }
        handle.close();
        Ok(self.engine.hear()?.parse()?)
    }
}

impl Drop for Bridged {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
