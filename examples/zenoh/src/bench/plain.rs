//! zenoh's own way.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use zenoh::bytes::ZBytes;
use zenoh::handlers::FifoChannelHandler;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::CongestionControl;
use zenoh::sample::Sample;
use zenoh::{Config, Session, Wait};

use super::far::Process;
use super::sample::{Way, median_trip};
use crate::Result;

pub const THERE: &str = "bench/there";
pub const BACK: &str = "bench/back";
pub const STREAM: &str = "bench/stream";
pub const BLOCK: CongestionControl = CongestionControl::Block;

/// Opens a session that only has this endpoint.
pub fn session(setting: &str, endpoint: &str) -> Result<Session> {
    let mut config = Config::default();
    config.insert_json5("scouting/multicast/enabled", "false")?;
    config.insert_json5(setting, &format!("[{endpoint:?}]"))?;
    zenoh::open(config).wait()
}

/// Returns an endpoint of this machine that nobody uses.
pub fn free_endpoint() -> Result<String> {
    Ok(format!("tcp/{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?))
}

/// A session here and one in the far process.
pub struct Plain {
    there: Publisher<'static>,
    back: Subscriber<FifoChannelHandler<Sample>>,
    stream: Publisher<'static>,
    far: Process,
    _session: Session,
}

impl Plain {
    pub fn start() -> Result<Self> {
        let endpoint = free_endpoint()?;
        let far = Process::start(&["far", "zenoh", &endpoint])?;
        let session = session("connect/endpoints", &endpoint)?;
        let back = session.declare_subscriber(BACK).wait()?;
        let there =
            session.declare_publisher(THERE).congestion_control(BLOCK).express(true).wait()?;
        let stream = session.declare_publisher(STREAM).congestion_control(BLOCK).wait()?;
        for publisher in [&there, &stream] {
            while !publisher.matching_status().wait()?.matching() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(Self { there, back, stream, far, _session: session })
    }
}

impl Way for Plain {
    fn round_trip(&mut self, bytes: usize, turn: Duration) -> Result<f64> {
        let packet = ZBytes::from(vec![7; bytes]);
        median_trip(turn, || {
            self.there.put(packet.clone()).wait()?;
            self.back.recv()?;
            Ok(())
        })
    }

    fn stream(&mut self, bytes: usize, turn: Duration) -> Result<f64> {
        let (packet, begin) = (ZBytes::from(vec![7; bytes.max(1)]), Instant::now());
        while begin.elapsed() < turn {
            for _ in 0..64 {
                self.stream.put(packet.clone()).wait()?;
            }
        }
        self.stream.put(ZBytes::new()).wait()?;
        Ok(self.far.hear()?.parse()?)
    }
}
