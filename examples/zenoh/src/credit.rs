//! How much may be under way in one direction of a circuit.
//!
//! Each packet has a [`cost`]. The receiving bridge offers a window, and the sending bridge sends
//! only while the cost of what it has sent and what is not yet freed is within it. The receiving
//! bridge frees the cost of a packet when the packet lies in the ring of its channel. So an
//! application that does not receive fills its ring, then the window, and then the sending bridge
//! takes nothing more from the ring at its own end.

use crate::wire::Offer;

/// What a packet costs over its length, so that a window bounds their number too.
const COST_OF_EACH: u64 = 64;

/// The longest packet that a wakering channel can have.
const MAX_PACKET: u64 = (1 << 30) / 4 - 8;

/// What a packet of `len` bytes takes from the window.
pub fn cost(len: usize) -> u64 {
    len as u64 + COST_OF_EACH
}

/// The smallest window in which every packet finds room, although the receiver keeps back what it
/// has freed until that is worth a message.
fn smallest_window(max_packet: u64) -> u64 {
    2 * (max_packet + COST_OF_EACH)
}

/// Returns the offer of a channel: its ring is the window.
pub fn offer(ring_bytes: usize, max_packet: usize) -> Offer {
    let max_packet = max_packet as u64;
    Offer { window: (ring_bytes as u64).max(smallest_window(max_packet)), max_packet }
}

/// What this side may send.
#[derive(Debug)]
pub struct Allowance {
    offer: Offer,
    sent: u64,
    freed: u64,
}

impl Allowance {
    /// Returns `None` for an offer that no channel makes.
    pub fn new(offer: Offer) -> Option<Self> {
        let is_sound =
            offer.max_packet <= MAX_PACKET && offer.window >= smallest_window(offer.max_packet);
        is_sound.then_some(Self { offer, sent: 0, freed: 0 })
    }

    /// The length of the longest packet that the other side takes.
    pub fn max_packet(&self) -> u64 {
        self.offer.max_packet
    }

    /// Returns the cost of what may be sent now.
    pub fn room(&self) -> u64 {
        self.offer.window.saturating_sub(self.sent - self.freed)
    }

    /// Takes note of what is sent.
    pub fn spend(&mut self, cost: u64) {
        self.sent += cost;
    }

    /// Takes note of what the other side says it has freed in all. Returns `None` if that cannot
    /// be.
    #[must_use]
    pub fn freed(&mut self, freed: u64) -> Option<()> {
        if freed < self.freed || freed > self.sent {
            return None;
        }
        self.freed = freed;
        Some(())
    }
}

/// What the other side has sent.
#[derive(Debug)]
pub struct Account {
    window: u64,
    received: u64,
    freed: u64,
    told: u64,
}

impl Account {
    pub fn new(offer: Offer) -> Self {
        Self { window: offer.window, received: 0, freed: 0, told: 0 }
    }

    /// Takes note of a packet. Returns `None` if it does not fit into what the other side knows to
    /// be free.
    #[must_use]
    pub fn receive(&mut self, cost: u64) -> Option<()> {
        let under_way = self.received - self.told + cost;
        if under_way > self.window {
            return None;
        }
        self.received += cost;
        Some(())
    }

    /// Frees the cost of packets that are in the ring, or that nobody wants any more.
    pub fn free(&mut self, cost: u64) {
        self.freed += cost;
    }

    /// Whether so much was freed that the other side should be told, although this side has nothing
    /// else to say.
    pub fn is_worth_telling(&self) -> bool {
        self.freed - self.told >= self.window / 4
    }

    /// Returns all that was freed, which the other side is told now.
    pub fn tell(&mut self) -> u64 {
        self.told = self.freed;
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowance(max_packet: usize) -> (Allowance, Account) {
        let offer = offer(4096, max_packet);
        (Allowance::new(offer).unwrap(), Account::new(offer))
    }

    #[test]
    fn a_receiver_that_frees_everything_never_leaves_the_sender_without_room() {
        let longest = 1016;
        let (mut sender, mut receiver) = allowance(longest);
        for _ in 0..1000 {
            assert!(sender.room() >= cost(longest));
            sender.spend(cost(longest));
            receiver.receive(cost(longest)).unwrap();
            receiver.free(cost(longest));
            if receiver.is_worth_telling() {
                sender.freed(receiver.tell()).unwrap();
            }
        }
    }

    #[test]
    fn what_is_under_way_stays_within_the_window() {
        let (mut sender, mut receiver) = allowance(1016);
        let mut sent = 0;
        while sender.room() >= cost(0) {
            sender.spend(cost(0));
            receiver.receive(cost(0)).unwrap();
            sent += 1;
        }
        assert_eq!(sent, 4096 / 64);
        assert_eq!(receiver.receive(cost(0)), None);
        receiver.free(cost(0));
        // It is free only once the sender can know.
        assert_eq!(receiver.receive(cost(0)), None);
        sender.freed(receiver.tell()).unwrap();
        assert_eq!(sender.room(), cost(0));
        receiver.receive(cost(0)).unwrap();
    }

    #[test]
    fn claims_about_what_was_freed_are_judged() {
        let (mut sender, _) = allowance(1016);
        sender.spend(500);
        assert_eq!(sender.freed(501), None);
        assert_eq!(sender.freed(300), Some(()));
        assert_eq!(sender.freed(299), None);
        assert_eq!(sender.freed(u64::MAX), None);
        assert_eq!(sender.freed(500), Some(()));
    }

    #[test]
    fn offers_that_no_channel_makes_are_refused() {
        assert!(Allowance::new(Offer { window: 128, max_packet: 0 }).is_some());
        assert!(Allowance::new(Offer { window: 127, max_packet: 0 }).is_none());
        assert!(Allowance::new(Offer { window: u64::MAX, max_packet: MAX_PACKET + 1 }).is_none());
        assert!(Allowance::new(Offer { window: u64::MAX, max_packet: u64::MAX }).is_none());
        let mut greedy = Allowance::new(Offer { window: u64::MAX, max_packet: 8 }).unwrap();
        greedy.spend(1 << 40);
        assert!(greedy.room() > 1 << 40);
    }
}
