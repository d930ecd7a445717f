//! Limits and deadlines of the relay.

use std::time::Duration;

/// Limits and deadlines.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Octets of an intercepted call's request that may be held; more is RESOURCE_EXHAUSTED.
    pub max_message_bytes: usize,
    /// Octets of a body that observers get; longer ones are cut.
    pub max_observed_bytes: usize,
    /// Octets of one header list.
    pub max_header_list_bytes: usize,
    /// How long a call without a deadline of its own waits for an absent runtime.
    pub connect_limit: Duration,
    /// How long before its own deadline a waiting call is answered, so that the client learns why.
    pub deadline_margin: Duration,
    /// The most a hook may take before the request is refused.
    pub before_limit: Duration,
    /// The most the end of a reply waits for a hook.
    pub after_limit: Duration,
    /// How long open calls may go on after shutdown has begun.
    pub drain_limit: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 << 20,
            max_observed_bytes: 16 << 20,
            max_header_list_bytes: 256 << 10,
            connect_limit: Duration::from_secs(10),
            deadline_margin: Duration::from_millis(200),
            before_limit: Duration::from_secs(60),
            after_limit: Duration::from_secs(30),
            drain_limit: Duration::from_secs(10),
        }
    }
}
