//! Whether the measurements may be acted on, and if not, why: then everything is as without telemetry.

use crate::{
    measured::{Measured, MeasurementQuality},
    view::View,
};
use derive_more::Display;
use resmgr_topology::Nanos;
use serde::{Deserialize, Serialize};

/// Measurements older than this (5 s) say nothing about now: the window within which decisions fall back.
pub const STALE_NS: u64 = 5_000_000_000;

/// What the measurements are good for.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// They may be acted on.
    #[display("measurements are used")]
    Usable,
    /// There are none: telemetry is off, or has not seen anything yet.
    #[display("nothing is measured: decided as without telemetry")]
    Missing,
    /// They were polled, not counted: too coarse.
    #[display("measurements are only polled, too coarse to act on: decided as without telemetry")]
    Coarse,
    /// They are older than [`STALE_NS`].
    #[display("measurements are {age_s} s old and not used: decided as without telemetry")]
    Stale {
        /// How old, seconds.
        age_s: u64,
    },
}

impl Condition {
    /// What these measurements are good for at this time (`CLOCK_MONOTONIC`).
    #[must_use]
    pub fn of(measured: &Measured, now: Nanos) -> Self {
        let age = now.0.saturating_sub(measured.at.0);
        if measured.containers.is_empty() && measured.cpu_busy_milli.is_empty() {
            Self::Missing
        } else if age > STALE_NS {
            Self::Stale {
                age_s: age / 1_000_000_000,
            }
        } else if measured.quality == MeasurementQuality::Polled {
            Self::Coarse
        } else {
            Self::Usable
        }
    }

    /// Whether they may be acted on.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self == Self::Usable
    }
}

/// Whether the measurements of a view may be acted on.
pub(crate) fn usable(view: View<'_>) -> bool {
    Condition::of(view.measured, view.now).is_usable()
}
