//! Logging: `tracing`'s events as lines for people or for machines, switched per source at run time.

pub mod source;

mod budget;
mod bulk;
mod layer;
mod settings;

pub use bulk::Bulk;
pub use layer::{Control, install, last_words};
pub use settings::{Format, Level, LogSettings};
pub use source::placement;
