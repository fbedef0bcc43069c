//! The network between the bridges, which can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Passes TCP connections on.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    streams: Vec<TcpStream>,
}

/// What happens to what comes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    #[default]
    Passes,
    /// Connections stay open, and everything that is sent is lost.
    Swallows,
    /// There are no connections.
    Refuses,
}

impl Proxy {
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let accepting = state.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Dropped, if there is nobody to connect to: the bridge tries again.
                let Ok(far) = TcpStream::connect(target) else { continue };
                let mut state = accepting.lock().unwrap();
                if state.mode == Mode::Passes {
                    pass(&near, &far, &accepting);
                    pass(&far, &near, &accepting);
                    state.streams.extend([near, far]);
                }
            }
        });
        Self { address, target, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Cuts all connections, and lets none come up.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.mode = Mode::Refuses;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Loses all that is sent, without a sign.
    pub fn swallow(&self) {
        self.state.lock().unwrap().mode = Mode::Swallows;
    }

    /// Passes on new connections again.
    pub fn restore(&self) {
        self.cut();
        self.state.lock().unwrap().mode = Mode::Passes;
    }
}

/// Passes on what one side sends, on a thread of its own.
fn pass(from: &TcpStream, to: &TcpStream, state: &Arc<Mutex<State>>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let state = state.clone();
    for stream in [&from, &to] {
        stream.set_nodelay(true).unwrap();
    }
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(_) if state.lock().unwrap().mode == Mode::Swallows => {}
                Ok(read) => {
                    if to.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
