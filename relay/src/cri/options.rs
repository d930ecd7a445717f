//! Limits and deadlines of the relay: the one place of every bound, and its name in the metrics.

use std::time::Duration;

/// Limits and deadlines.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Connections of clients at once, each with up to two to the runtime. Beyond it, that for which no octet has
    /// passed for longest makes room for the newest.
    pub max_clients: usize,
    /// Octets of an intercepted call's request that may be held; more is RESOURCE_EXHAUSTED.
    pub max_message_bytes: usize,
    /// Octets of requests that are held for one client, for hooks, for the runtime's windows or for an
    /// absent runtime; a call that needs more is RESOURCE_EXHAUSTED.
    pub max_held_bytes: usize,
    /// The same for all clients together, without the first [`Self::free_held_bytes`] of each.
    pub max_held_bytes_of_all: usize,
    /// Octets that a client may always have held.
    pub free_held_bytes: usize,
    /// Octets of a body that observers get, and hooks of a reply; longer ones are cut.
    pub max_observed_bytes: usize,
    /// Octets of unfinished messages that are kept for observers and hooks, of all calls of one client;
    /// more is cut.
    pub max_kept_bytes: usize,
    /// The same for all clients together.
    pub max_kept_bytes_of_all: usize,
    /// Octets of one header list; more is a connection error.
    pub max_header_list_bytes: usize,
    /// Octets of the header lists of all open calls of one client; a call beyond is REFUSED_STREAM.
    pub max_call_header_bytes: usize,
    /// CONTINUATION frames of one header block; more is ENHANCE_YOUR_CALM.
    pub max_continuations: usize,
    /// Open calls of one client, as SETTINGS_MAX_CONCURRENT_STREAMS says; a call beyond is REFUSED_STREAM.
    pub max_concurrent_streams: u32,
    /// Octets that wait for a client or a socket of the runtime to read them, above which nothing is read
    /// from the side that they come from.
    pub max_unread_bytes: usize,
    /// Octets that wait for a peer to read them, above which nothing is read from that peer itself: they are
    /// mostly answers to what it sends.
    pub max_unread_answer_bytes: usize,
    /// Frames that belong to no call, or carry nothing of it, that a peer may send within
    /// [`Self::frame_period`] beyond four for each frame that does; more is ENHANCE_YOUR_CALM.
    pub max_idle_frames: u32,
    /// Calls that a client may reset within [`Self::frame_period`] beyond those that ended otherwise; more is
    /// ENHANCE_YOUR_CALM.
    pub max_resets: u32,
    /// The time that the two limits above are for.
    pub frame_period: Duration,
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
            max_clients: 4096,
            max_message_bytes: 64 << 20,
            max_held_bytes: 64 << 20,
            max_held_bytes_of_all: 128 << 20,
            free_held_bytes: 256 << 10,
            max_observed_bytes: 16 << 20,
            max_kept_bytes: 32 << 20,
            max_kept_bytes_of_all: 64 << 20,
            max_header_list_bytes: 256 << 10,
            max_call_header_bytes: 4 << 20,
            max_continuations: 64,
            max_concurrent_streams: 2048,
            max_unread_bytes: 256 << 10,
            max_unread_answer_bytes: 1 << 20,
            max_idle_frames: 10_000,
            max_resets: 4000,
            frame_period: Duration::from_secs(10),
            connect_limit: Duration::from_secs(10),
            deadline_margin: Duration::from_millis(200),
            before_limit: Duration::from_secs(60),
            after_limit: Duration::from_secs(30),
            drain_limit: Duration::from_secs(10),
        }
    }
}

/// A bound of [`ServerOptions`] that a peer has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`ServerOptions::max_clients`].
    Clients,
    /// [`ServerOptions::max_message_bytes`].
    Message,
    /// [`ServerOptions::max_held_bytes`].
    HeldOctets,
    /// [`ServerOptions::max_held_bytes_of_all`].
    HeldOctetsOfAll,
    /// [`ServerOptions::max_kept_bytes`].
    KeptOctets,
    /// [`ServerOptions::max_kept_bytes_of_all`].
    KeptOctetsOfAll,
    /// [`ServerOptions::max_header_list_bytes`].
    HeaderList,
    /// [`ServerOptions::max_call_header_bytes`].
    CallHeaders,
    /// [`ServerOptions::max_continuations`].
    Continuations,
    /// [`ServerOptions::max_concurrent_streams`].
    Streams,
    /// [`ServerOptions::max_unread_answer_bytes`].
    UnreadAnswers,
    /// [`ServerOptions::max_idle_frames`].
    IdleFrames,
    /// [`ServerOptions::max_resets`].
    Resets,
}

impl Limit {
    /// Its name in the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Message => "message",
            Self::HeldOctets => "held_octets",
            Self::HeldOctetsOfAll => "held_octets_of_all",
            Self::KeptOctets => "kept_octets",
            Self::KeptOctetsOfAll => "kept_octets_of_all",
            Self::HeaderList => "header_list",
            Self::CallHeaders => "call_headers",
            Self::Continuations => "continuations",
            Self::Streams => "streams",
            Self::UnreadAnswers => "unread_answers",
            Self::IdleFrames => "idle_frames",
            Self::Resets => "resets",
        }
    }
}
