//! How long moves are watched, how long containers cool down after one, and how many there may be.

/// Nanoseconds of a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// A move is judged this long after it was made at the latest, twelve half-lives of the measurements: by what is
/// likelier, where that is not sure. This and the cooldowns are for the standard [half-life](crate::HALF_LIFE); with
/// another one they grow or shrink alike.
pub const VERIFY_NS: u64 = 120 * SECOND_NS;
/// From here on, one half-life, a move is judged as soon as it is sure whether it keeps its promise.
pub const VERIFY_FROM_NS: u64 = 10 * SECOND_NS;
/// A container that was moved is not moved again for so long.
pub const COOLDOWN_NS: u64 = 300 * SECOND_NS;
/// The same for a container whose move was undone.
pub const COOLDOWN_UNDONE_NS: u64 = 3600 * SECOND_NS;
/// Moves a minute, over all containers.
pub const BUDGET_PER_MINUTE: usize = 6;
/// A gain below this (nanoseconds per second) is noise.
pub(crate) const MIN_GAIN_NS: u64 = 5_000_000;
