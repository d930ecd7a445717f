//! Labels that several families have.

use prometheus_client::encoding::EncodeLabelSet;

/// Which container a value is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ContainerLabels {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
}
