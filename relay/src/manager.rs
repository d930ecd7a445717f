//! The one task that owns the placement state.
