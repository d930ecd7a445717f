//! Frames that are to be sent: to the client, and to each socket of the runtime.

use crate::cri::{frame, route::Route};
use bytes::BytesMut;

/// What is to be sent to each side.
#[derive(Debug, Default)]
pub(super) struct FrameOutput {
    pub(super) client: BytesMut,
    upstreams: [UpstreamOutput; 2],
}

/// What is to be sent to a socket of the runtime.
#[derive(Debug, Default)]
pub(super) struct UpstreamOutput {
    pub(super) octets: BytesMut,
    pub(super) connected: bool,
}

impl FrameOutput {
    pub(super) fn upstream(&mut self, route: Route) -> &mut UpstreamOutput {
        &mut self.upstreams[route.index()]
    }

    pub(super) fn is_connected(&self, route: Route) -> bool {
        self.upstreams[route.index()].connected
    }

    /// Octets of all frames.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn octets(&self) -> usize {
        let upstreams = self.upstreams.iter().map(|upstream| upstream.octets.len());
        self.client.len() + upstreams.sum::<usize>()
    }

    /// Octets that wait for the socket of `route` to read them.
    pub(super) fn unread(&self, route: Route) -> usize {
        self.upstreams[route.index()].octets.len()
    }
}

impl UpstreamOutput {
    /// Ends a call that this socket knows of.
    pub(super) fn reset(&mut self, id: u32, code: u32) {
        if self.connected {
            frame::put_reset(&mut self.octets, id, code);
        }
    }
}
