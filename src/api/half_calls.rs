//! The calls that both halves have.

macro_rules! half_calls {
    () => {
        /// Cuts the channel off: see [`Endpoint::cancel`](crate::Endpoint::cancel).
        pub fn cancel(&self) {
            self.channel().cancel();
        }

        /// Creates a [`Canceller`](crate::Canceller) for this end.
        pub fn canceller(&self) -> crate::Canceller {
            let canceller = crate::Canceller::new();
            canceller.add(self.channel());
            canceller
        }

        /// Returns the length of the longest allowed packet, in bytes.
        pub fn max_packet(&self) -> usize {
            self.channel().region().geometry().max_packet()
        }

        /// Returns what this end, with both its halves, has done so far.
        pub fn stats(&self) -> crate::Stats {
            self.channel().counters().read()
        }

        /// Returns who the peer is, once it has connected.
        pub fn peer_credentials(&self) -> Option<crate::PeerCredentials> {
            self.channel().peer()
        }
    };
}

pub(super) use half_calls;
