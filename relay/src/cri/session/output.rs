//! Frames that are to be sent: to the client, and to each socket of the runtime.

use crate::cri::{frame, route::Route};
use bytes::{Bytes, BytesMut};

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
    /// Frames until the connection is there, with their stream.
    pub(super) awaiting_connect: Vec<(u32, Bytes)>,
}

impl FrameOutput {
    pub(super) fn upstream(&mut self, route: Route) -> &mut UpstreamOutput {
        &mut self.upstreams[route.index()]
    }

    pub(super) fn is_connected(&self, route: Route) -> bool {
        self.upstreams[route.index()].connected
    }

    /// Whether frames wait for a connection to the socket of `route`.
    pub(super) fn awaits_connect(&self, route: Route) -> bool {
        let upstream = &self.upstreams[route.index()];
        !upstream.connected && !upstream.awaiting_connect.is_empty()
    }

    /// Octets of all frames.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn octets(&self) -> usize {
        let upstreams = self.upstreams.iter().map(|upstream| {
            let awaiting = upstream.awaiting_connect.iter();
            upstream.octets.len() + awaiting.map(|(_, octets)| octets.len()).sum::<usize>()
        });
        self.client.len() + upstreams.sum::<usize>()
    }
}

impl UpstreamOutput {
    /// Sends frames of stream `id`, once the connection is there.
    pub(super) fn forward(&mut self, id: u32, frames: &[u8]) {
        if self.connected {
            self.octets.extend_from_slice(frames);
        } else {
            self.awaiting_connect
                .push((id, Bytes::copy_from_slice(frames)));
        }
    }

    /// Ends a call that this socket knows of.
    pub(super) fn reset(&mut self, id: u32, code: u32) {
        if self.connected {
            frame::put_reset(&mut self.octets, id, code);
        }
    }

    /// The connection is there: what has waited for it goes out.
    pub(super) fn connect(&mut self) {
        self.connected = true;
        for (_, octets) in self.awaiting_connect.drain(..) {
            self.octets.extend_from_slice(&octets);
        }
    }
}
