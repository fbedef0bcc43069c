//! Packets between two Linux processes through shared memory, for any async executor.
//!
//! An *engine* (a router, a broker, a media server) and its *applications* run on one machine and
//! exchange packets of a few bytes to a few hundred KiB, both ways. Each channel is a piece of
//! shared memory with one ring for each direction. Futex words inside that memory wake a side that
//! sleeps, so a stream in full flight makes no system calls at all. A driver of this crate, not a
//! runtime, waits on these words for your tasks. So the tasks may run anywhere: on smol, async-std,
//! Tokio, `futures::executor`, an executor of your own, or plain threads.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::os::unix::fs::PermissionsExt;
//! # let directory = std::env::temp_dir().join(format!("wakering-crate-{}", std::process::id()));
//! # std::fs::create_dir_all(&directory)?;
//! # std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
//! # let name = format!("{}/video", directory.display());
//! # let name = name.as_str();
//! use bytes::Bytes;
//! use wakering::{SpscFace, SpscHandle};
//!
//! // The engine's process. `name` is a name such as "video".
//! let face = SpscFace::create(name)?;
//! let engine = std::thread::spawn(move || pollster::block_on(async {
//!     while let Some(packet) = face.recv().await {
//!         face.send(packet).await?;
//!     }
//!     // `recv` also ends if the peer died; `finished` tells whether every packet has come.
//!     Ok::<_, wakering::ShmError>(face.finished())
//! }));
//!
//! // The application's process.
//! let handle = SpscHandle::connect(name)?;
//! pollster::block_on(async {
//!     handle.send(Bytes::from_static(b"there and back")).await?;
//!     assert_eq!(handle.recv().await.unwrap(), "there and back");
//!     Ok::<_, wakering::ShmError>(())
//! })?;
//!
//! drop(handle);
//! assert_eq!(engine.join().unwrap()?, Some(Ok(())));
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Overview
//!
//! [`SpscFace`] is the engine's end of one channel, and [`SpscHandle`] is the application's. (Each
//! ring has a single producer and a single consumer, which are processes; any number of tasks may
//! use an end.) [`SpscListener`] gives an engine one face after another, for applications that come
//! and go. Both ends dereference to [`Endpoint`], which has the methods that they share.
//! [`Endpoint::into_split`] makes a [`Sender`], which is a `futures` `Sink<Bytes>`, and a
//! [`Receiver`], which is a `Stream`; [`Endpoint::into_duplex`] makes both in one. A [`Driver`]
//! waits on the futex words (the *bells*) of many channels; unless you name one, the process's own
//! is used. [`runtimes`] says which driver is best under which runtime, and has the glue. [`spec`]
//! specifies the protocol, for implementations in other languages.
//!
//! # Which call to use
//!
//! | you | send by | receive by |
//! |---|---|---|
//! | are a task | [`send`](Endpoint::send) | [`recv`](Endpoint::recv) |
//! | have many packets at once | [`send_batch`](Endpoint::send_batch): checks the peer's bell once for all | [`recv_batch`](Endpoint::recv_batch) |
//! | must not wait | [`try_send`](Endpoint::try_send), which gives the packet back | [`try_recv`](Endpoint::try_recv) |
//! | are a thread | [`send_blocking`](Endpoint::send_blocking) | [`recv_blocking`](Endpoint::recv_blocking), [`recv_timeout`](Endpoint::recv_timeout) |
//! | wait only so long | [`send_timeout`](Endpoint::send_timeout), and [`send_timeout_blocking`](Endpoint::send_timeout_blocking) for threads | `recv` under your executor's timeout: it is cancel safe |
//! | want no copy | [`reserve`](Sender::reserve): a [`Grant`] to write the packet in place; a [`Batch`] for many of them | [`recv_ref`](Receiver::recv_ref): a [`Packet`] to read in place |
//! | build a pipeline | [`Sender`] as a `Sink`, without a deadline | [`Receiver`] as a `Stream` of `Result`s |
//! | want a stream of bytes | [`PacketWriter`], an `AsyncWrite` | [`PacketReader`], an `AsyncRead` |
//! | give a framework its transport | [`Duplex`], which is both | [`Duplex`] |
//!
//! These calls can be mixed. The methods of a whole end take `&self`, may be called from any number
//! of tasks, and take a lock that is rarely contended. Those of the halves take `&mut self` and no
//! lock. `send` gives up after the builder's `send_timeout` (5 s unless set); a `Sink` waits
//! without a limit.
//!
//! # Guarantees
//!
//! - **Delivery.** Once `send` has returned `Ok`, the packet is in shared memory. The peer receives
//!   it, whole and once, even if this process is killed right away. It may be lost only if either
//!   side cancels, if the peer stops receiving or dies, or if the driver of an end stops before
//!   that end is closed. A packet that was not completely written is never seen.
//! - **Order.** Packets of one direction arrive in the order in which their sends were queued. A
//!   batch is not interleaved with other packets.
//! - **Cancellation.** If a future is dropped before it is ready, `send` has sent nothing, `recv`
//!   has taken nothing, and `send_batch` has sent the first N packets (N may be 0).
//!   [`cancel`](Endpoint::cancel), by either side, from any thread or through a [`Canceller`], ends
//!   both directions on both sides at once: every waiting call returns.
//! - **Ends are told apart.** Each direction ends separately, with a [reason](CloseReason) that
//!   never changes. After `recv` has returned `None`, [`finished`](Endpoint::finished) is `Ok` if
//!   the peer ended its stream in order and every packet has arrived; otherwise it returns what cut
//!   the stream off. As a `Stream`, a receiver yields one `Err` before any end that may have lost
//!   packets. The channel is over when both directions are. Its
//!   [`close_reason`](Endpoint::close_reason) is the worse of the two, so an orderly end of one
//!   direction never hides that the other was cut off. A half that the peer closes or drops ends
//!   only its own direction.
//! - **A partial stream does not look complete.** A `Sender`, or a whole end, that is dropped while
//!   its thread panics cancels the channel. After [`cancel_on_drop(true)`](Sender::cancel_on_drop),
//!   so does every drop without a close: a `?` in the middle of a stream, or a future that is
//!   dropped. So does dropping a `Sender` that still holds back a packet for which there is no
//!   room, or a listener, for the applications that it has not accepted. Any other drop is an
//!   orderly end.
//! - **No call waits for a peer that is gone.** No wake is lost. Any call that waits, to send or to
//!   receive, notices the peer's death in about a millisecond, also across PID namespaces. (A
//!   process that dumps core dies when the dump is written. The regions are not in it.)
//!
//! # Fairness
//!
//! A channel in full flight always has a packet to receive, or room to send one. A future that is
//! ready whenever that holds never returns to its executor, and starves the other tasks of the
//! thread. So each direction of an end has a budget: 256 packets of up to 64 bytes, fewer if they
//! are longer, about 272 KiB in all. The budget is refilled when a future of this direction is
//! `Pending`. When the budget is used up, the next future wakes its own task and returns `Pending`
//! once. That poll takes and sends nothing, and the future may be dropped.
//!
//! This holds for all futures: `send`, `recv`, both batches, `reserve`, `recv_ref`, the `Sink` and
//! the `Stream`. The `try_` and the blocking calls use up the budget too, but are not limited by
//! it.
//!
//! A receiver that finds the ring empty may do the same before it sleeps, to check again after the
//! other tasks; see [`spin`](FaceBuilder::spin).
//!
//! **`Pending` does not mean empty, or full.** A program that polls by hand, as `select!` and
//! `now_or_never` do, may see `Pending` while packets are there; it is woken at once. To check what
//! is there now, use [`try_recv`](Endpoint::try_recv), [`try_send`](Endpoint::try_send) or
//! [`readable`](Receiver::readable).
//!
//! # What a peer can do
//!
//! A peer that **dies** ends the channel with [`CloseReason::PeerDied`], whatever it had
//! half-closed before; the packets that it had completely published are received first. (From Linux
//! 6.5 on, this also holds if a forked child of the peer lives on with copies of its descriptors.)
//! Only an empty socket file outlives both processes, and the next engine takes it over. (The
//! directory of the names keeps an empty `.lock` file in any case.)
//!
//! A **hostile** peer can send any packets, stop talking, fill its own ring, send spurious wakes
//! until the channel is closed for it, and end the channel. It cannot cause undefined behaviour, a
//! panic or a hang, because nothing that it writes is trusted: the memory is sealed against
//! resizing, every number is checked before use, and packets are copied out. (Reading one in place
//! as a slice is `unsafe`, because it depends on the peer's good conduct.) After the peer's end,
//! however it came about, at most one ring of packets follows. A rule that the peer breaks is
//! reported as a [`Violation`], which ends this channel and no other. The socket's mode and the
//! peer's user decide who may connect: our own user and root, unless a builder's `allow` says
//! otherwise.
//!
//! # Two processes
//!
//! **Versions.** The two sides may be built with different versions of this crate, as long as both
//! speak the same version of the [protocol](spec#versions-and-features), which is 1. Otherwise
//! `connect` fails with [`VersionMismatch`](ShmError::VersionMismatch).
//!
//! **Users.** An engine lets its own user and root in, and an application trusts the engines of its
//! own user and of root. Two users need four things: a directory that both can reach; the engine's
//! [`mode`](FaceBuilder::mode) and [`allow`](FaceBuilder::allow); and the application's own
//! [`allow`](HandleBuilder::allow). Each error names what is still missing.
//! Users look for names in [different directories](SpscFace::create) unless `WAKERING_DIR` is set.
//!
//! **Containers.** Mount the directory of the names into both, and set `WAKERING_DIR`. Users are
//! compared as one's own user namespace shows them. The memory is that of a memfd: it counts for
//! the container that touches a page first, and no limit of `/dev/shm` applies.
//!
//! # Kernels
//!
//! Linux, on machines with 64-bit atomics. On Linux 6.7 or later, where io_uring is permitted, the
//! driver keeps one futex wait armed for each channel in an io_uring: [`Backend::IoUring`].
//! Elsewhere it uses only epoll, and the peer wakes it with a byte on the channel's socket:
//! [`Backend::Epoll`]. Each side chooses for itself, silently; [`Driver::backend`] returns the
//! choice. A program that enters a sandbox without io_uring must do so before it makes a driver: a
//! driver that found io_uring permitted, and is refused it later, stops. `/proc` must be mounted.
//! The library installs no signal handlers.
//!
//! # Targets
//!
//! | Linux target | drivers wait by |
//! |---|---|
//! | x86-64, AArch64, RISC-V 64, LoongArch64, POWER 64 | io_uring, or epoll where it is not available |
//! | any other with 64-bit atomics: x86, Armv7, s390x and more | epoll |
//!
//! The feature `io-uring` is on by default. Without it, all drivers wait by epoll, the crate of
//! that name is not built, and asking for [`Backend::IoUring`] fails with
//! [`Unsupported`](ShmError::Unsupported). On 32-bit targets a ring has at most 512 MiB, and a
//! larger one that an engine offers is refused.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `io-uring` | on | drivers that wait by io_uring |
//! | `async-io` | off | `AsyncIoDriver`, a driver in the reactor of smol and async-std |
//! | `tracing` | off | [events](#events) of the crate `tracing` |
//! | `cli` | off | [the command](#the-command) `wakering` |
//!
//! # Events
//!
//! With the feature `tracing`, the library tells what happens to drivers and channels, with the
//! target `wakering`. It never tells packets, neither their contents nor that they pass, and a wake
//! makes no event either.
//!
//! | event | level | fields |
//! |---|---|---|
//! | `made a driver` | debug | `run`, `backend` |
//! | `fell back to epoll` | info | `reason` |
//! | `connected`, on each side | debug | `side`, `path`, `peer_pid`, `peer_uid` |
//! | `refused`: an engine refuses a client, or an application is refused | warn | `side`, `path`, `cause`; on the engine's side `peer_pid`, `peer_uid` |
//! | `did not connect`: other failures of an application | debug | `side`, `path`, `cause` |
//! | `a client hung up early, or took too long` | debug | `side`, `path` |
//! | `ended`, once for each direction | debug | those of `connected`, `direction`, `reason` |
//! | the same, if the peer died, broke a rule, or the driver is gone | warn | the same |
//! | `the peer broke the protocol` | warn | those of `connected`, `rule` |
//!
//! A direction has ended when nothing more can be sent, or nothing more can come. The peer's
//! packets may still be in the ring then, and a later cancel may still cut them off. This side
//! learns of an end when a call or its driver looks. A pair has no `path`. In a forked child, the
//! parent's channels make no events.
//!
//! A subscriber may be called while a call on the end holds its locks, or on the driver's thread.
//! So it must not use the end that the event is about, and must not block for long. If it panics,
//! the event is lost and nothing else happens. Each client that is refused makes one event: a user
//! who may reach the socket decides how many.
//!
//! # The command
//!
//! `cargo install wakering --features cli`, or `cargo install --path . --features cli` in a
//! checkout, installs `wakering`, which uses channels from a terminal or a script. Names are those
//! of [`SpscFace::create`].
//!
//! - `wakering top` shows the channels of this user while they work, by their names, whichever
//!   processes have them.
//! - `wakering cat NAME` sends standard input as packets, and writes the packets that come to
//!   standard output, as an application or, with `--engine` or `--listen`, as the engine. A packet
//!   is a line, a frame with its length in front (`--frames length`), or any piece of a stream
//!   (`--frames bytes`). The end of standard input is a half-close.
//! - `wakering ping NAME` measures round trips to an engine that echoes, such as `wakering ping
//!   NAME --echo`.
//! - `wakering bench` measures round trips and streams between two processes that it starts, by
//!   blocking calls and with drivers that are parked in, polled, or on a thread of their own.
//! - `wakering doctor` looks for what stands in the way of channels here: the kernel, io_uring and
//!   why it is not used, the directory of names, limits, and whether spinning pays.
//!
//! Each command tells its options and examples with `--help`, and prints JSON with `--json`, one
//! object a line.
//!
//! | exit status | |
//! |---|---|
//! | 0 | success; for `cat`: everything was sent and everything has come |
//! | 1 | failure; one line on standard error says why |
//! | 2 | the arguments are not allowed |
//! | 124 | a deadline passed: one that was set, or the 5 seconds that an engine has to answer |
//!
//! # Recipes
//!
//! ## Both ends in one test
//!
//! [`SpscFace::pair`] needs no name, and both ends may live on one thread:
//!
//! ```
//! use wakering::{SpscFace, SpscHandle};
//!
//! let (face, descriptor) = SpscFace::pair()?;
//! let handle = SpscHandle::from_fd(descriptor)?;
//! pollster::block_on(async {
//!     let (sent, received) = futures::join!(face.send("hello".into()), handle.recv());
//!     sent?;
//!     assert_eq!(received.unwrap(), "hello");
//!     Ok::<_, wakering::ShmError>(())
//! })?;
//! # Ok::<(), wakering::ShmError>(())
//! ```
//!
//! ## Bodies larger than a packet
//!
//! Send the length of the body first, then the body in pieces. [`send_batch`](Endpoint::send_batch)
//! keeps the packets of other senders out of the middle:
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use bytes::{Buf, Bytes, BytesMut};
//! use wakering::{Endpoint, ShmError};
//!
//! async fn send_body(end: &Endpoint, mut body: Bytes) -> Result<(), ShmError> {
//!     let mut packets = vec![Bytes::copy_from_slice(&(body.len() as u64).to_le_bytes())];
//!     while body.has_remaining() {
//!         packets.push(body.split_to(body.len().min(end.max_packet())));
//!     }
//!     end.send_batch(&packets).await
//! }
//!
//! /// Returns `None` if the channel ended before the body was whole, or if it exceeds `limit`.
//! async fn recv_body(end: &Endpoint, limit: usize) -> Option<Bytes> {
//!     let len = usize::try_from(end.recv().await?.try_get_u64_le().ok()?).ok()?;
//!     let mut body = BytesMut::with_capacity(Some(len).filter(|len| *len <= limit)?);
//!     while body.len() < len {
//!         body.extend_from_slice(&end.recv().await?);
//!     }
//!     Some(body.freeze()).filter(|body| body.len() == len)
//! }
//!
//! # let (face, descriptor) = SpscFace::pair()?;
//! # let handle = SpscHandle::from_fd(descriptor)?;
//! let body: Bytes = (0..3_000_000_u32).map(|n| n as u8).collect();
//! let (sent, received) = pollster::block_on(async {
//!     futures::join!(send_body(&face, body.clone()), recv_body(&handle, 1 << 30))
//! });
//! sent?;
//! assert_eq!(received.unwrap(), body);
//! # Ok::<(), ShmError>(())
//! ```
//!
//! ## A codec
//!
//! The halves carry `Bytes`. Use `SinkExt::with` and `StreamExt::map` to send and receive other
//! types:
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use std::io;
//!
//! use bytes::Bytes;
//! use futures::{SinkExt, StreamExt, future};
//! use wakering::ShmError;
//!
//! # let (face, descriptor) = SpscFace::pair()?;
//! # let handle = SpscHandle::from_fd(descriptor)?;
//! # let ((tx, _), (_, rx)) = (face.into_split(), handle.into_split());
//! let mut numbers_in = tx.with(|number: u64| {
//!     future::ok::<_, ShmError>(Bytes::copy_from_slice(&number.to_le_bytes()))
//! });
//! let mut numbers_out = rx.map(|packet| {
//!     let number = packet?.as_ref().try_into().map_err(|_| io::ErrorKind::InvalidData)?;
//!     Ok::<_, io::Error>(u64::from_le_bytes(number))
//! });
//! pollster::block_on(async {
//!     numbers_in.send(42).await?;
//!     assert_eq!(numbers_out.next().await.unwrap()?, 42);
//!     Ok::<_, io::Error>(())
//! })?;
//! # Ok::<(), io::Error>(())
//! ```
//!
//! ## A stream of bytes
//!
//! [`Sender::into_async_write`] and [`Receiver::into_async_read`] make the halves an `AsyncWrite`
//! and an `AsyncRead` of `futures`, for code that knows nothing of packets:
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use futures::io::{AsyncReadExt, AsyncWriteExt, Cursor};
//!
//! # let (face, descriptor) = SpscFace::pair()?;
//! # let handle = SpscHandle::from_fd(descriptor)?;
//! # let ((tx, _), (_, rx)) = (face.into_split(), handle.into_split());
//! let (mut writer, mut reader) = (tx.into_async_write(), rx.into_async_read());
//! let text = pollster::block_on(async {
//!     futures::io::copy(Cursor::new("no packets "), &mut writer).await?;
//!     writer.write_all(b"to be seen").await?;
//!     writer.close().await?;
//!     let mut text = String::new();
//!     // If the peer dies or cancels, this returns an error.
//!     reader.read_to_string(&mut text).await?;
//!     Ok::<_, std::io::Error>(text)
//! })?;
//! assert_eq!(text, "no packets to be seen");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! ## A stream that is complete, or fails
//!
//! The sender closes when it is done; any other way out cancels. The receiver checks `finished`
//! after the last packet. With the `Stream`, this is not needed, because an `Err` comes first.
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use std::io::{self, BufRead};
//!
//! use futures::SinkExt;
//! use wakering::{CloseReason, Receiver, Sender};
//!
//! async fn send_lines(mut tx: Sender, file: impl BufRead) -> io::Result<()> {
//!     tx.cancel_on_drop(true);
//!     for line in file.lines() {
//!         // The `?` cancels the channel, so that the file does not look complete.
//!         tx.send(line?.into()).await?;
//!     }
//!     Ok(tx.close().await?)
//! }
//!
//! async fn recv_lines(mut rx: Receiver) -> Result<usize, CloseReason> {
//!     let mut lines = 0;
//!     while rx.recv().await.is_some() {
//!         lines += 1;
//!     }
//!     rx.finished().expect("recv has returned None").map(|()| lines)
//! }
//!
//! for (file, is_text) in [(&b"one\ntwo\n"[..], true), (b"one\n\xff\n", false)] {
//!     let (face, descriptor) = SpscFace::pair()?;
//!     let handle = SpscHandle::from_fd(descriptor)?;
//!     let ((tx, _answers), (_questions, rx)) = (face.into_split(), handle.into_split());
//!     let (sent, received) = pollster::block_on(async {
//!         futures::join!(send_lines(tx, file), recv_lines(rx))
//!     });
//!     assert_eq!(sent.is_ok(), is_text);
//!     assert_eq!(received, if is_text { Ok(2) } else { Err(CloseReason::Cancelled) });
//! }
//! # Ok::<(), wakering::ShmError>(())
//! ```
//!
//! `close` does not wait until the receiver has everything. A sender that wants to know closes and
//! then receives, too: if the receiver drops its whole end only after it has taken everything, then
//! `recv` returns `None` here, and `finished` is `Ok`.
//!
//! ## Requests and responses
//!
//! Each request has an id, which its response repeats. Any number of tasks call at once, one task
//! hands out the responses, and each call has its own deadline:
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use std::collections::HashMap;
//! use std::io;
//! use std::pin::pin;
//! use std::sync::Mutex;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use std::time::Duration;
//!
//! use bytes::{Buf, BufMut, Bytes, BytesMut};
//! use futures::channel::oneshot;
//! use futures::future::{Either, select};
//! use wakering::Endpoint;
//!
//! struct Client {
//!     end: Endpoint,
//!     last_id: AtomicU64,
//!     calls: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
//! }
//!
//! impl Client {
//!     async fn call(&self, request: &[u8], timeout: Duration) -> io::Result<Bytes> {
//!         let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
//!         let mut packet = BytesMut::with_capacity(8 + request.len());
//!         packet.put_u64_le(id);
//!         packet.put_slice(request);
//!         let (answer, answered) = oneshot::channel();
//!         {
//!             let mut calls = self.calls.lock().unwrap();
//!             // Of calls that were dropped.
//!             calls.retain(|_, answer| !answer.is_canceled());
//!             calls.insert(id, answer);
//!         }
//!         let response = async {
//!             self.end.send(packet.freeze()).await?;
//!             answered.await.map_err(|_| io::ErrorKind::ConnectionAborted.into())
//!         };
//!         match select(pin!(response), pin!(async_io::Timer::after(timeout))).await {
//!             Either::Left((response, _)) => response,
//!             // A response that comes later finds no call, and is dropped.
//!             Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
//!         }
//!     }
//!
//!     /// Hands out responses until the channel ends. Then all calls fail.
//!     async fn hand_out(&self) {
//!         while let Some(mut response) = self.end.recv().await {
//!             let Ok(id) = response.try_get_u64_le() else { continue };
//!             if let Some(answer) = self.calls.lock().unwrap().remove(&id) {
//!                 let _ = answer.send(response);
//!             }
//!         }
//!         self.end.close();
//!         self.calls.lock().unwrap().clear();
//!     }
//! }
//!
//! # let (face, descriptor) = SpscFace::pair()?;
//! # let end = SpscHandle::from_fd(descriptor)?.into();
//! let client = Client { end, last_id: AtomicU64::new(0), calls: Mutex::default() };
//! let tasks = async {
//!     let echo = async {
//!         while let Some(request) = face.recv().await {
//!             // It answers any request but one, whatever their order.
//!             if !request.ends_with(b"do not answer") {
//!                 face.send(request).await.unwrap();
//!             }
//!         }
//!     };
//!     let calls = async {
//!         let (short, long) = (Duration::from_millis(1), Duration::from_secs(60));
//!         let (one, two, three) = futures::join!(
//!             client.call(b"one", long),
//!             client.call(b"do not answer", short),
//!             client.call(b"three", long),
//!         );
//!         assert_eq!((one.unwrap(), three.unwrap()), ("one".into(), "three".into()));
//!         assert_eq!(two.unwrap_err().kind(), io::ErrorKind::TimedOut);
//!         client.end.close();
//!         // After the end, a call fails at once.
//!         assert!(client.call(b"four", long).await.is_err());
//!     };
//!     futures::join!(echo, client.hand_out(), calls);
//! };
//! pollster::block_on(tasks);
//! # Ok::<(), wakering::ShmError>(())
//! ```
//!
//! ## A router without a copy of its own
//!
//! An engine that passes packets between many applications copies each from ring to ring, with no
//! buffer in between. Here the first byte of a packet says to which application it goes:
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use futures::future::join_all;
//! use futures::lock::Mutex;
//! use wakering::{Receiver, Sender, ShmError};
//!
//! /// Passes on what one application sends.
//! async fn route(mut from: Receiver, to: &[Mutex<Sender>]) {
//!     while let Some(packet) = from.recv_ref().await {
//!         let mut address = [0];
//!         if packet.is_empty() {
//!             continue;
//!         }
//!         packet.copy_to_slice(&mut address);
//!         let Some(to) = to.get(usize::from(address[0])) else { continue };
//!         // A slow application holds up those that send to it, for at most the `send_timeout`.
//!         // One that is gone loses its packets and disturbs nobody.
//!         let mut to = to.lock().await;
//!         if let Ok(mut grant) = to.reserve(packet.len()).await {
//!             grant.put_packet(&packet);
//!             let _ = grant.commit();
//!         }
//!     }
//! }
//!
//! // Of a `SpscListener`, in an engine.
//! let (mut applications, mut senders, mut receivers) = (Vec::new(), Vec::new(), Vec::new());
//! for _ in 0..3 {
//!     let (face, descriptor) = SpscFace::pair()?;
//!     applications.push(SpscHandle::from_fd(descriptor)?);
//!     let (tx, rx) = face.into_split();
//!     senders.push(Mutex::new(tx));
//!     receivers.push(rx);
//! }
//! applications[0].send_blocking("\u{2}from 0 to 2".into())?;
//! applications[1].send_blocking("\u{0}from 1 to 0".into())?;
//! applications[2].send_blocking("\u{9}to nobody".into())?;
//! let routing = join_all(receivers.into_iter().map(|rx| route(rx, &senders)));
//! let checks = async {
//!     assert_eq!(applications[2].recv().await.unwrap(), "\u{2}from 0 to 2");
//!     assert_eq!(applications[0].recv().await.unwrap(), "\u{0}from 1 to 0");
//!     assert!(applications.iter().all(|application| application.is_empty()));
//!     // Each of the tasks ends with its application.
//!     applications.iter().for_each(|application| application.close());
//! };
//! pollster::block_on(async { futures::join!(routing, checks) });
//! # Ok::<(), ShmError>(())
//! ```
//!
//! ## Ctrl-C
//!
//! A process that is killed by a signal leaves its channels as
//! [`PeerDied`](CloseReason::PeerDied). To end them in order, wait for the signal beside the
//! packets, by any crate for signals, and close:
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use async_signal::{Signal, Signals};
//! use futures::future::{Either, select};
//! use futures::StreamExt;
//! use std::pin::pin;
//! use wakering::Endpoint;
//!
//! /// Echoes until the process is asked to end.
//! async fn serve(end: &Endpoint, signals: &mut Signals) -> std::io::Result<()> {
//!     // If the signal comes first, the dropped `recv` has taken nothing.
//!     while let Either::Left((Some(packet), _)) =
//!         select(pin!(end.recv()), signals.next()).await
//!     {
//!         end.send(packet).await?;
//!     }
//!     // The peer receives everything that was sent, then the end.
//!     end.close();
//!     Ok(())
//! }
//!
//! # let (face, descriptor) = SpscFace::pair()?;
//! # let handle = SpscHandle::from_fd(descriptor)?;
//! let mut signals = Signals::new([Signal::Int, Signal::Term])?;
//! let client = async {
//!     handle.send("before".into()).await?;
//!     assert_eq!(handle.recv().await.unwrap(), "before");
//!     // What Ctrl-C does.
//!     rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT)?;
//!     assert_eq!(handle.recv().await, None);
//!     assert_eq!(handle.finished(), Some(Ok(())));
//!     Ok(())
//! };
//! pollster::block_on(async { futures::try_join!(serve(&face, &mut signals), client) })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! ## Many small items
//!
//! A stream of items of one length is fastest with many of them in a packet: each packet costs a
//! header and a publication, and an item costs no more than its bytes. The sender collects items
//! in a chunk of memory and puts the whole chunk into a packet. The receiver copies the packet to
//! a chunk of its own and looks at the items there. Then a hostile peer cannot change what was
//! copied, and no `unsafe` is needed. A chunk of 4 KiB stays in the first cache of a processor, so
//! a copy to or from it costs little. It is aligned, so crates like `bytemuck` and `zerocopy` can
//! read its items as structs. If you trust the peer, [`Packet::as_slice`] saves the receiver's
//! copy. For items of 1 KiB and more, that is worth it, with eight chunks in a packet.
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use bytes::BufMut;
//!
//! const ITEM: usize = 64;
//!
//! /// Many items.
//! #[repr(align(64))]
//! struct Chunk([u8; 64 * ITEM]);
//!
//! # let (face, descriptor) = SpscFace::pair()?;
//! # let handle = SpscHandle::from_fd(descriptor)?;
//! # let ((mut tx, _), (_, mut rx)) = (face.into_split(), handle.into_split());
//! # let receiver = std::thread::spawn(move || {
//! // The receiver.
//! let mut chunk = Chunk([0; 64 * ITEM]);
//! let mut next = 0_u64;
//! while let Some(packet) = rx.recv_ref_blocking() {
//!     // A peer of another version may send more than this side has room for.
//!     let Some(items) = chunk.0.get_mut(..packet.len()) else { break };
//!     packet.copy_to_slice(items);
//!     // Gives the room back to the sender, who can go on meanwhile.
//!     drop(packet);
//!     for item in items.chunks_exact(ITEM) {
//!         assert_eq!(item[..8], next.to_ne_bytes());
//!         next += 1;
//!     }
//! }
//! # next
//! # });
//! // The sender.
//! let mut chunk = Chunk([0; 64 * ITEM]);
//! let mut items = (0_u64..1000).peekable();
//! while items.peek().is_some() {
//!     let mut len = 0;
//!     for (place, item) in chunk.0.chunks_exact_mut(ITEM).zip(&mut items) {
//!         place[..8].copy_from_slice(&item.to_ne_bytes());
//!         len += ITEM;
//!     }
//!     let mut grant = tx.reserve_blocking(len)?;
//!     grant.put_slice(&chunk.0[..len]);
//!     grant.commit()?;
//! }
//! # drop(tx);
//! # assert_eq!(receiver.join().unwrap(), 1000);
//! # Ok::<(), wakering::ShmError>(())
//! ```
//!
//! The example `stream` has these loops in their async and `try_` forms, and measures them.
//!
//! ## A registry that keeps no end alive
//!
//! A list of all ends, from which each disappears when its own task is done with it, holds them by
//! `std::sync::Weak`. The last `Arc` closes its end in order when it is dropped, wherever that is.
//! A [`Canceller`] keeps no end alive either.
//!
//! ```
//! # use wakering::{SpscFace, SpscHandle};
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex, Weak};
//!
//! #[derive(Default)]
//! struct Registry(Mutex<HashMap<u64, Weak<SpscFace>>>);
//!
//! impl Registry {
//!     fn add(&self, id: u64, face: &Arc<SpscFace>) {
//!         self.0.lock().unwrap().insert(id, Arc::downgrade(face));
//!     }
//!
//!     /// Returns the ends that are still in use, and forgets the others. Drop what this returns
//!     /// before you wait for anything else: until then it keeps these ends open.
//!     fn in_use(&self) -> Vec<Arc<SpscFace>> {
//!         let mut faces = self.0.lock().unwrap();
//!         faces.retain(|_, face| face.strong_count() > 0);
//!         faces.values().filter_map(Weak::upgrade).collect()
//!     }
//! }
//!
//! let registry = Registry::default();
//! let (face, descriptor) = SpscFace::pair()?;
//! let handle = SpscHandle::from_fd(descriptor)?;
//! let face = Arc::new(face);
//! registry.add(1, &face);
//! for face in registry.in_use() {
//!     face.try_send("to all".into())?;
//! }
//! // Its task is done.
//! drop(face);
//! assert!(registry.in_use().is_empty());
//! assert_eq!(handle.recv_blocking().unwrap(), "to all");
//! assert_eq!(handle.recv_blocking(), None);
//! assert_eq!(handle.finished(), Some(Ok(())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## Metrics
//!
//! Each end counts what passes: see [`Stats`]. A registry reads the counters when it is asked, so
//! they cost nothing more. This one writes the text format that Prometheus reads. It holds the ends
//! weakly, because an end that it kept would not be dropped.
//!
//! ```
//! # use wakering::SpscHandle;
//! use std::fmt::Write;
//! use std::sync::{Arc, Weak};
//!
//! use wakering::SpscFace;
//!
//! #[derive(Default)]
//! struct Registry(Vec<(String, Weak<SpscFace>)>);
//!
//! impl Registry {
//!     fn add(&mut self, channel: &str, face: &Arc<SpscFace>) {
//!         self.0.push((channel.to_owned(), Arc::downgrade(face)));
//!     }
//!
//!     fn scrape(&mut self) -> String {
//!         let mut text = String::new();
//!         self.0.retain(|(channel, face)| {
//!             let Some(stats) = face.upgrade().map(|face| face.stats()) else { return false };
//!             for (name, count) in [
//!                 ("packets_sent", stats.packets_sent),
//!                 ("bytes_sent", stats.bytes_sent),
//!                 ("packets_received", stats.packets_received),
//!                 ("bytes_received", stats.bytes_received),
//!                 ("full_stalls", stats.full_stalls),
//!             ] {
//!                 let name = format!("wakering_{name}_total");
//!                 writeln!(text, "{name}{{channel=\"{channel}\"}} {count}").expect("a string");
//!             }
//!             true
//!         });
//!         text
//!     }
//! }
//!
//! # let (face, descriptor) = SpscFace::pair()?;
//! # let handle = SpscHandle::from_fd(descriptor)?;
//! let mut registry = Registry::default();
//! let face = Arc::new(face);
//! registry.add("video", &face);
//! face.try_send("a frame".into())?;
//! let text = registry.scrape();
//! assert!(text.contains("wakering_packets_sent_total{channel=\"video\"} 1\n"));
//! assert!(text.contains("wakering_bytes_sent_total{channel=\"video\"} 7\n"));
//!
//! drop(face);
//! assert_eq!(registry.scrape(), "");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## Waiting for the engine
//!
//! `connect` waits for an engine's answer, but not for an engine to appear:
//!
//! ```
//! # use std::os::unix::fs::PermissionsExt;
//! # let directory = std::env::temp_dir().join(format!("wakering-retry-{}", std::process::id()));
//! # std::fs::create_dir_all(&directory)?;
//! # std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?;
//! use std::time::Duration;
//! use wakering::{ShmError, SpscFace, SpscHandle};
//!
//! async fn connect_patiently(name: &str) -> Result<SpscHandle, ShmError> {
//!     loop {
//!         match SpscHandle::connect_async(name).await {
//!             // HungUp: the engine has ended, and another may follow. Busy: the face may not have
//!             // noticed yet that an earlier handle of ours is gone.
//!             Err(ShmError::NotFound { .. } | ShmError::HungUp | ShmError::Busy) => {}
//!             settled => return settled,
//!         }
//!         async_io::Timer::after(Duration::from_millis(50)).await;
//!     }
//! }
//!
//! # let name = format!("{}/late", directory.display());
//! # let late = name.clone();
//! let engine = std::thread::spawn(move || {
//!     std::thread::sleep(Duration::from_millis(120));
//!     let face = SpscFace::create(&late)?;
//!     pollster::block_on(face.connected())?;
//!     Ok::<_, ShmError>(face)
//! });
//! let handle = pollster::block_on(connect_patiently(&name))?;
//! let face = engine.join().unwrap()?;
//! assert!(handle.is_connected() && face.is_connected());
//! # drop((handle, face));
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(
    all(test, loom),
    allow(dead_code, reason = "the models leave out the rendezvous and what only it uses")
)]

#[cfg(not(target_os = "linux"))]
compile_error!("wakering works on Linux alone: it is made of futexes, sealed memfds and epoll");
#[cfg(all(target_os = "linux", not(target_has_atomic = "64")))]
compile_error!("wakering needs 64-bit atomics, which this target does not have");

/// A table of runtimes, a tested recipe for each, and what goes wrong without.
pub mod runtimes {
    #![doc = include_str!("api/runtimes.md")]
}

/// The protocol's written specification, with test vectors.
pub mod spec {
    #![doc = include_str!("spec.md")]
}

mod error;
mod sync;
mod sys;
mod shm;
mod ring;
mod wake;
mod driver;
mod rendezvous;
mod channel;
mod api;
#[cfg(any(test, fuzzing))]
mod testing;

pub use error::{
    CloseReason, DenialCause, RecvTimeoutError, ShmError, TryRecvError, TryReserveError,
    TrySendError, Violation,
};
#[cfg(any(fuzzing, all(test, not(loom))))]
#[doc(hidden)]
pub use testing::fuzzing;
pub use {
    api::batch::Batch,
    api::canceller::Canceller,
    api::duplex::{Duplex, ReuniteError},
    api::endpoint::Endpoint,
    api::grant::Grant,
    api::packet::Packet,
    api::packet_reader::PacketReader,
    api::packet_writer::PacketWriter,
    api::receiver::Receiver,
    api::sender::Sender,
    channel::Stats,
    driver::{Backend, Driver, EmbeddedDriver, Operation, Submission, Unparker},
    rendezvous::credentials::PeerCredentials,
};
#[cfg(not(all(test, loom)))]
pub use {
    api::face::SpscFace,
    api::face_builder::FaceBuilder,
    api::handle::{HandleBuilder, SpscHandle},
    api::listener::{ListenerStats, SpscListener},
    driver::{DriverBuilder, PolledDriver},
};

#[cfg(all(feature = "async-io", not(all(test, loom))))]
pub use driver::AsyncIoDriver;

/// Compiles and runs the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
