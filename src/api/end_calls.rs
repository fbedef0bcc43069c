//! The calls that a whole end and both its halves have.

/// Defines them, for a type with a `channel()`. The caller documents `cancel` and `stats`, which
/// mean more for a whole end.
macro_rules! end_calls {
    ($(#[$cancel:meta])* cancel $(#[$stats:meta])* stats) => {
        $(#[$cancel])*
        pub fn cancel(&self) {
            self.channel().cancel();
        }

        /// Creates a [`Canceller`](crate::Canceller) that cancels this end, from any thread and
        /// after the end has moved.
        pub fn canceller(&self) -> crate::Canceller {
            let canceller = crate::Canceller::new();
            canceller.add(self.channel());
            canceller
        }

        /// Returns who the peer is, once it has connected.
        pub fn peer_credentials(&self) -> Option<crate::PeerCredentials> {
            self.channel().peer()
        }

        /// Returns the length of the longest allowed packet, in bytes.
        ///
        /// The engine sets it: 1 MiB less 8 bytes by default. For packets of exactly 1 MiB, it
        /// creates the channel by
        /// [`create_for_mtu(name, 1 << 20)`](crate::SpscFace::create_for_mtu).
        pub fn max_packet(&self) -> usize {
            self.channel().region().geometry().max_packet()
        }

        $(#[$stats])*
        pub fn stats(&self) -> crate::Stats {
            self.channel().counters().read()
        }
    };
}

pub(super) use end_calls;
