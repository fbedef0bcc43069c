//! Cancellation: of channels, and of futures by dropping them.

mod cancellers;
mod dropped_futures;
