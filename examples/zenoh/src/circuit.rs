//! The channel of one application across the network.
//!
//! A circuit is a channel at each end and what the two bridges know of it. What comes from the
//! other end is judged in [`Circuit::receive`], on zenoh's thread. All else is done by one task, on
//! the thread of the [`Peer`].

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::SinkExt;
use futures::future::{Either, select, try_join};
use wakering::{Canceller, Endpoint, Receiver, Sender, ShmError};

use crate::breach::Breach;
use crate::credit::{self, Allowance};
use crate::duties::{Duties, Duty};
use crate::inward::{self, Inward};
use crate::outward::{self, Message, is_over_at_once};
use crate::peer::Peer;
use crate::wire::{self, Body, BridgeId, CircuitId, Cut, End, Header, Offer};

/// How often a side says something, if only that it is there.
const BEAT: Duration = Duration::from_secs(1);

/// How long the other end may take to answer an [`Body::Open`]. Longer than a handshake with its
/// engine may take.
const OPENING: Duration = Duration::from_secs(8);

/// How long a circuit outlasts a process that died, so that the other side can read what it has
/// sent.
const LINGER: Duration = Duration::from_secs(5);

/// One circuit, at one of its ends.
#[derive(Debug)]
pub struct Circuit {
    id: CircuitId,
    peer: Arc<Peer>,
    /// How long the other end may be silent.
    patience: Duration,
    /// Cancels the channel.
    canceller: Canceller,
    duties: Duties,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    /// How many messages were sent. Locked while one is sent, which only the task does.
    said: Mutex<u64>,
    /// When something was sent, and when something came, on the [`clock`].
    said_at: AtomicU64,
    heard_at: AtomicU64,
    /// When this side learned that a process has died in the middle of what it sends.
    died_at: OnceLock<Instant>,
    verdict: OnceLock<Verdict>,
}

/// What the other end sends.
#[derive(Debug, Default)]
struct Incoming {
    /// How many messages came.
    heard: u64,
    /// There once the channel is.
    inward: Option<Inward>,
}

/// What this end may send.
#[derive(Debug, Default)]
struct Outgoing {
    /// There once the other end has made its offer.
    allowance: Option<Allowance>,
    /// The task waits for room of this cost.
    wants: Option<u64>,
    /// [`Body::Fin`] was sent.
    is_finished: bool,
}

/// Why a circuit was cut, and by whom.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    cut: Cut,
    /// The other end knows.
    is_known: bool,
}

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("message {came} where {expected} was expected")]
    Gap { came: u64, expected: u64 },
    #[error(transparent)]
    Breach(#[from] Breach),
}

/// The life of a circuit.
impl Circuit {
    /// Makes a circuit that import is about to open.
    pub fn to_open(id: CircuitId, peer: Arc<Peer>, patience: Duration) -> Self {
        Self {
            id,
            peer,
            patience,
            canceller: Canceller::new(),
            duties: Duties::default(),
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
            said: Mutex::default(),
            said_at: AtomicU64::new(clock()),
            heard_at: AtomicU64::new(clock()),
            died_at: OnceLock::new(),
            verdict: OnceLock::new(),
        }
    }

    /// Makes a circuit that the other bridge has opened.
    pub fn opened(
        id: CircuitId,
        peer: Arc<Peer>,
        patience: Duration,
        offer: Offer,
    ) -> Result<Self, Breach> {
        let circuit = Self::to_open(id, peer, patience);
        circuit.incoming().heard = 1;
        circuit.outgoing().allowance = Some(judge_offer(offer)?);
        Ok(circuit)
    }

    pub fn id(&self) -> CircuitId {
        self.id
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Carries the packets of `channel`, for import, from the opening to the end.
    pub async fn open(&self, from: BridgeId, channel: Endpoint) {
        self.serve(async {
            let (receiver, offer) = self.attach(channel);
            self.say(&Body::Open { from, offer })?;
            self.duties.wait(Duty::START).await;
            self.carry(receiver).await
        })
        .await;
    }

    /// Carries the packets of the channel that `connecting` makes, for export.
    pub async fn accept(&self, connecting: impl Future<Output = Result<Endpoint, ShmError>>) {
        self.serve(async {
            let channel = connecting.await.map_err(|error| {
                tracing::warn!("circuit {}: {error}", self.id);
                Cut::NoEngine
            })?;
            let (receiver, offer) = self.attach(channel);
            self.say(&Body::Accept(offer))?;
            self.carry(receiver).await
        })
        .await;
    }

    /// Does `work`, unless the circuit is cut. Then the channel is cancelled, and the other end is
    /// told.
    async fn serve(&self, work: impl Future<Output = Result<(), Cut>>) {
        if let Either::Left((Err(cut), _)) =
            select(pin!(work), pin!(self.duties.wait(Duty::CUT))).await
        {
            self.cut(cut);
        }
        let Some(verdict) = self.verdict.get() else {
            return tracing::info!("circuit {}: closed", self.id);
        };
        tracing::info!("circuit {}: cut, {}", self.id, verdict.cut);
        if !verdict.is_known {
            // If this does not arrive, the other end hears nothing more, and cuts too.
            let _ = self.say(&Body::Cancel(verdict.cut));
        }
    }

    /// Takes the channel, and returns what this end offers.
    fn attach(&self, channel: Endpoint) -> (Receiver, Offer) {
        channel.set_cancel(&self.canceller);
        let offer = credit::offer(channel.ring_bytes(), channel.max_packet());
        let (sender, receiver) = channel.into_split();
        self.incoming().inward = Some(Inward::new(sender, offer));
        (receiver, offer)
    }

    /// Carries packets both ways, until both directions have ended.
    async fn carry(&self, receiver: Receiver) -> Result<(), Cut> {
        tracing::info!("circuit {}: open", self.id);
        let outward = async {
            outward::pump(self, receiver).await?;
            self.outgoing().is_finished = true;
            self.look();
            Ok(())
        };
        let inward = async {
            match inward::drain(self).await {
                (End::Complete, Some(mut sender)) => {
                    // An error is the end of the channel.
                    let _ = sender.close().await;
                    Ok(())
                }
                (End::Died, Some(sender)) => self.linger(sender).await,
                (_, None) | (End::Stopped, _) => Ok(()),
            }
        };
        let both = try_join(outward, inward);
        let chores = async {
            loop {
                let duty = self.duties.wait(Duty::BEAT.and(Duty::STOP)).await;
                self.say(if duty.has(Duty::STOP) { &Body::Stop } else { &Body::Beat })?;
            }
        };
        let (both, chores) = (pin!(both), pin!(chores));
        let outcome = match select(both, chores).await {
            Either::Left((outcome, _)) => outcome.map(|_| ()),
            Either::Right((outcome, _)) => outcome,
        };
        // Before the halves are dropped, which would end the channel in another way.
        outcome.inspect_err(|cut| self.cut(*cut))
    }

    /// Lets the channel's other side read what the dead process has sent, and cuts the circuit
    /// then: the stream is not complete. [`tick`](Self::tick) cuts it if that takes too long.
    async fn linger(&self, mut sender: Sender) -> Result<(), Cut> {
        let empty = self.with_inward(|inward| inward.empty_bytes());
        while sender.free_bytes() < empty && sender.close_reason().is_none() {
            // Comes with each tick.
            self.duties.wait(Duty::INWARD).await;
        }
        Err(Cut::PeerDied)
    }
}

/// What other threads tell the circuit.
impl Circuit {
    /// Takes a message of the other end. Never blocks.
    pub fn receive(&self, header: &Header, body: &Body<'_>) {
        if self.verdict.get().is_some() {
            return;
        }
        if let Body::Cancel(cut) = *body {
            return self.settle(Verdict { cut, is_known: true });
        }
        // ORDERING: Relaxed, here and below: a time alone.
        self.heard_at.store(clock(), Ordering::Relaxed);
        let refusal = match self.judge(header, body) {
            Ok(()) => return self.look(),
            Err(refusal) => refusal,
        };
        tracing::warn!("circuit {}: {refusal}", self.id);
        self.cut(match refusal {
            Refusal::Gap { .. } => Cut::Gap,
            Refusal::Breach(_) => Cut::Breach,
        });
    }

    /// PEER: the one place where a message of an open circuit is judged.
    fn judge(&self, header: &Header, body: &Body<'_>) -> Result<(), Refusal> {
        let mut incoming = self.incoming();
        if header.number != incoming.heard {
            return Err(Refusal::Gap { came: header.number, expected: incoming.heard });
        }
        incoming.heard += 1;
        self.judge_outgoing(header, body)?;
        let inward = incoming.inward.as_mut().ok_or(Breach::OutOfPlace)?;
        match *body {
            Body::Data(data) => inward.receive(data)?,
            Body::Fin { packets, end } => {
                inward.finish(packets, end)?;
                if end == End::Died {
                    self.note_death();
                }
            }
            Body::Stop => self.duties.add(Duty::STOPPED),
            Body::Accept(_) | Body::Beat => {}
            Body::Open { .. } | Body::Cancel(_) => return Err(Breach::OutOfPlace.into()),
        }
        if inward.account().is_worth_telling() {
            self.duties.add(Duty::BEAT);
        }
        if inward.is_to_be_drained() {
            self.duties.add(Duty::INWARD);
        }
        Ok(())
    }

    /// Judges what a message says about the packets of this end.
    fn judge_outgoing(&self, header: &Header, body: &Body<'_>) -> Result<(), Breach> {
        let mut outgoing = self.outgoing();
        if let Body::Accept(offer) = *body {
            if outgoing.allowance.is_some() {
                return Err(Breach::OutOfPlace);
            }
            outgoing.allowance = Some(judge_offer(offer)?);
            self.duties.add(Duty::START);
        }
        let allowance = outgoing.allowance.as_mut().ok_or(Breach::OutOfPlace)?;
        allowance.freed(header.freed).ok_or(Breach::WrongFreed(header.freed))?;
        let room = allowance.room();
        if outgoing.wants.is_some_and(|wants| wants <= room) {
            outgoing.wants = None;
            self.duties.add(Duty::ROOM);
        }
        Ok(())
    }

    /// Does what is due by the clock. To be called a few times a second.
    pub fn tick(&self) {
        let since = |at: &AtomicU64| {
            Duration::from_millis(clock().saturating_sub(at.load(Ordering::Relaxed)))
        };
        let is_opening = self.outgoing().allowance.is_none();
        // An export that connects to its engine hears nothing meanwhile.
        let is_connecting = self.incoming().inward.is_none();
        let patience = if is_opening { OPENING } else { self.patience };
        if !is_connecting && since(&self.heard_at) > patience {
            return self.cut(Cut::Silence);
        }
        if !is_opening && !is_connecting && since(&self.said_at) >= BEAT {
            self.duties.add(Duty::BEAT);
        }
        if let Some(died_at) = self.died_at.get() {
            // Here, because the task may be waiting for room that nobody makes.
            if died_at.elapsed() > LINGER {
                return self.cut(Cut::PeerDied);
            }
            self.duties.add(Duty::INWARD);
        }
        self.look();
    }

    /// Learns whether the channel still takes packets.
    pub fn look(&self) {
        let looked = self.incoming().inward.as_mut().and_then(Inward::look);
        match looked {
            Some(reason) if is_over_at_once(reason) => self.cut(Cut::Cancelled),
            Some(_) => self.duties.add(Duty::STOP),
            None => {}
        }
    }

    /// Cuts the circuit off: cancels the channel at once, and tells the other end soon.
    pub fn cut(&self, cut: Cut) {
        self.settle(Verdict { cut, is_known: cut == Cut::BridgeGone });
    }

    fn settle(&self, verdict: Verdict) {
        // Nothing of the other end is missing then: it cannot cut what is complete.
        let end = self.incoming().inward.as_ref().and_then(Inward::end);
        let is_complete =
            self.outgoing().is_finished && matches!(end, Some(End::Complete | End::Stopped));
        let is_theirs = verdict.is_known || verdict.cut == Cut::Silence;
        if is_complete && is_theirs {
            return;
        }
        if self.verdict.set(verdict).is_ok() {
            self.canceller.cancel();
            self.duties.add(Duty::CUT);
        }
    }
}

/// What the two directions need.
impl Circuit {
    /// Sends a message.
    pub fn say(&self, body: &Body<'_>) -> Result<(), Cut> {
        self.send(|header| wire::encode(&header, body))
    }

    /// Sends packets, for which there is room.
    pub fn say_data(&self, message: Message) -> Result<(), Cut> {
        if let Some(allowance) = &mut self.outgoing().allowance {
            allowance.spend(message.cost);
        }
        self.send(|header| message.with_header(&header))
    }

    fn send(&self, message: impl FnOnce(Header) -> Vec<u8>) -> Result<(), Cut> {
        let mut said = lock(&self.said);
        let freed = self.incoming().inward.as_mut().map_or(0, |inward| inward.account().tell());
        let message = message(Header { circuit: self.id, number: *said, freed });
        *said += 1;
        self.said_at.store(clock(), Ordering::Relaxed);
        self.peer.send(message).map_err(|error| {
            tracing::warn!("circuit {}: {error}", self.id);
            Cut::NotSent
        })
    }

    /// Returns the length of the longest packet that the other end takes.
    pub fn longest_packet(&self) -> usize {
        let outgoing = self.outgoing();
        let longest = outgoing.allowance.as_ref().map_or(0, Allowance::max_packet);
        usize::try_from(longest).unwrap_or(usize::MAX)
    }

    /// Waits until packets of this cost may be sent, and returns the cost of what may be; `None` if
    /// nothing shall be sent any more.
    pub async fn wait_for_room(&self, cost: u64) -> Option<u64> {
        loop {
            {
                let mut outgoing = self.outgoing();
                let room = outgoing.allowance.as_ref().map_or(0, Allowance::room);
                if room >= cost {
                    return Some(room);
                }
                outgoing.wants = Some(cost);
            }
            if self.duties.wait(Duty::ROOM.and(Duty::STOPPED)).await.has(Duty::STOPPED) {
                return None;
            }
        }
    }

    /// Takes note that a process has died in the middle of what it sends, here or at the other end.
    /// From the first time on, the circuit only lasts for some seconds.
    pub fn note_death(&self) {
        self.died_at.get_or_init(Instant::now);
    }

    /// Waits until the other end takes no more packets.
    pub async fn stopped(&self) {
        self.duties.wait(Duty::STOPPED).await;
    }

    /// Waits until there is something in the overflow, or the end.
    pub async fn wait_for_inward(&self) {
        while !self.with_inward(|inward| inward.is_to_be_drained()) {
            self.duties.wait(Duty::INWARD).await;
        }
    }

    /// Frees packets that came, and does something else to the direction.
    pub fn free(&self, cost: u64, then: impl FnOnce(&mut Inward)) {
        self.with_inward(|inward| {
            inward.account().free(cost);
            then(inward);
            if inward.account().is_worth_telling() {
                self.duties.add(Duty::BEAT);
            }
        });
    }

    /// Does something to the direction from the network, once [`attach`](Self::attach) has made it.
    pub fn with_inward<R>(&self, action: impl FnOnce(&mut Inward) -> R) -> R {
        action(self.incoming().inward.as_mut().expect("the channel is there while it is carried"))
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        lock(&self.incoming)
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        lock(&self.outgoing)
    }
}

/// Nothing is half done when a lock is released, by a panic neither: it ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn judge_offer(offer: Offer) -> Result<Allowance, Breach> {
    let Offer { window, max_packet } = offer;
    Allowance::new(offer).ok_or(Breach::WrongOffer { window, max_packet })
}

/// Milliseconds since the first call.
fn clock() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX)
}
