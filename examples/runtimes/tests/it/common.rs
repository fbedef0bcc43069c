//! What these tests share with the library's.

use std::time::Duration;

#[path = "../../../../tests/common/child.rs"]
#[allow(dead_code, unused_imports, reason = "not all of it is needed here")]
pub mod child;

/// How long anything may take before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(60);
