//! Names: who serves one, who finds it, and who may.

mod lookup;
mod permissions;
mod takeover;
