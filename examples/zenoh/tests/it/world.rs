//! Two machines: directories that channels are found in, and bridges between them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::process::Process;
use crate::proxy::Proxy;

/// The name of the engine, on both machines.
pub const NAME: &str = "engine";

/// What the bridges have in common.
pub const KEY: &str = "test/bridge";

/// The ring of the channels, small so that it is full soon.
pub const RING: usize = 64 * 1024;

/// The longest packet for this ring.
pub const LONGEST: usize = RING / 4 - 8;

/// What both bridges are told: only TCP, to the address that they are given, and no lease that
/// could notice what the bridges have to notice themselves.
const CONFIG: &str = r#"{
    scouting: { multicast: { enabled: false }, gossip: { autoconnect: { peer: [] } } },
    connect: { retry: { period_init_ms: 50, period_max_ms: 200, period_increase_factor: 2 } },
    transport: {
        link: {
            tx: {
                lease: 600000,
                queue: { congestion_control: { block: { wait_before_close: 60000000 } } },
            },
        },
    },
}"#;

/// How long a bridge waits for a congested link before zenoh gives it up: see [`CONFIG`].
pub const CONGESTION: Duration = Duration::from_secs(60);

/// The engine's machine and the applications' machine, with a bridge each.
#[derive(Debug)]
pub struct World {
    root: PathBuf,
    pub export: Process,
    pub import: Process,
    /// Where import connects to; it passes all on to export.
    pub proxy: Proxy,
    more: Vec<String>,
}

impl World {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With further arguments for both bridges.
    pub fn with(more: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("wz-{}-{number}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("zenoh.json5"), CONFIG).unwrap();
        let proxy = Proxy::new(free_address(number));
        let more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        let export = start_export(&root, &proxy, &more);
        let import = start_import(&root, &proxy, &more);
        Self { root, export, import, proxy, more }
    }

    pub fn restart_export(&mut self) {
        self.export = start_export(&self.root, &self.proxy, &self.more);
    }

    pub fn restart_import(&mut self) {
        self.import = start_import(&self.root, &self.proxy, &self.more);
    }

    /// Starts an engine that serves one application at a time.
    pub fn engine(&self) -> Process {
        self.engine_party(&["engine", NAME, &RING.to_string()])
    }

    /// Starts an engine that sends back what comes.
    pub fn echo(&self) -> Process {
        self.engine_party(&["echo", NAME])
    }

    /// Waits until import has noticed that there is no export, and has given up the name.
    pub fn wait_until_nothing_is_imported(&self) {
        let (begin, name) = (Instant::now(), format!("{NAME}.sock"));
        while self.machine("import").join(&name).exists() {
            assert!(begin.elapsed() < PATIENCE, "import still has the name");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Where the channels of a machine are found.
    pub fn machine(&self, role: &str) -> PathBuf {
        self.root.join(role)
    }

    fn engine_party(&self, arguments: &[&str]) -> Process {
        let mut engine = Process::party(&self.machine("export"), arguments);
        engine.expect("bound");
        engine
    }

    /// Starts an application, and waits until it is connected to import.
    pub fn application(&self) -> Process {
        let mut application = self.connecting_application();
        application.expect("connected");
        application
    }

    pub fn connecting_application(&self) -> Process {
        Process::party(&self.machine("import"), &["application", NAME])
    }

    /// Starts an application, and connects it with the engine.
    pub fn connect(&self, engine: &mut Process) -> Process {
        engine.tell("accept");
        let application = self.application();
        engine.expect("accepted");
        application
    }

    /// Starts an engine and an application, and connects them.
    pub fn connected(&self) -> (Process, Process) {
        let mut engine = self.engine();
        let application = self.connect(&mut engine);
        (engine, application)
    }

    /// Checks that the engine, which is free, serves another application from beginning to end.
    #[track_caller]
    pub fn goes_on(&self, engine: &mut Process) {
        let mut application = self.connect_anew(engine);
        application.does("send 50 1 2000", "sent");
        application.does("close", "closed");
        engine.does("receive 50 1 2000", "received");
        engine.does("end", "complete after 0");
        engine.does("next", "over");
    }

    /// Like [`connect`](Self::connect), although the first ones may come before a bridge has
    /// noticed that the other one is gone, or came back. They are cut off.
    pub fn connect_anew(&self, engine: &mut Process) -> Process {
        engine.tell("accept");
        let accepted =
            |within| engine.says_something_within(within).then(|| engine.expect("accepted"));
        self.application_until(accepted).0
    }

    /// Starts applications, each when the one before is cut off, until `comes` returns something.
    /// It is told how long to wait for that. Returns the last application too.
    pub fn application_until<T>(
        &self,
        mut comes: impl FnMut(Duration) -> Option<T>,
    ) -> (Process, T) {
        let begin = Instant::now();
        loop {
            let mut application = self.application();
            while application.is_open() {
                if let Some(it) = comes(Duration::from_millis(100)) {
                    return (application, it);
                }
                assert!(begin.elapsed() < PATIENCE, "no application gets through");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn start_export(root: &Path, proxy: &Proxy, more: &[String]) -> Process {
    let listen = format!("tcp/{}", proxy.target());
    start(root, "export", &["--listen", &listen], more)
}

fn start_import(root: &Path, proxy: &Proxy, more: &[String]) -> Process {
    let (connect, ring) = (format!("tcp/{}", proxy.address()), RING.to_string());
    let ours = ["--listen", "tcp/127.0.0.1:0", "--connect", &connect, "--ring-bytes", &ring];
    start(root, "import", &ours, more)
}

fn start(root: &Path, role: &str, ours: &[&str], more: &[String]) -> Process {
    let config = root.join("zenoh.json5");
    let common = [role, NAME, "--key", KEY, "--config", config.to_str().unwrap()];
    let more = more.iter().map(String::as_str);
    let arguments: Vec<&str> = common.into_iter().chain(ours.iter().copied()).chain(more).collect();
    Process::bridge(&root.join(role), &arguments)
}

/// An address of this machine that nobody listens on. Nobody else uses its host, if the machine has
/// that: a port of 127.0.0.1 could be given to somebody else before export listens on it.
fn free_address(number: u32) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let [.., world] = (1 + number % 250).to_be_bytes();
    let host = Ipv4Addr::new(127, world, high, low);
    let listener = TcpListener::bind((host, 0)).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    listener.unwrap().local_addr().unwrap()
}
