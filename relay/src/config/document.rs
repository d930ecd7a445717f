//! Run-time configuration: what the node agent pushes.

/// A pushed configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document;
