//! PING (RFC 9113, 6.7): each is answered by the peer it is passed on to, or in that peer's name.

use super::{error::ConnectionError, output::FrameOutput};
use crate::cri::{
    frame::{self, Head},
    route::Route,
};
use std::collections::VecDeque;

/// PINGs of one direction that may wait for an answer; the relay itself answers further ones.
const MAX_UNANSWERED: usize = 64;

type Payload = [u8; 8];

/// PINGs that were passed on and are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Pings {
    /// From the client, by the socket they went to.
    client: VecDeque<(Route, Payload)>,
    /// From the sockets.
    upstream: VecDeque<(Route, Payload)>,
}

impl Pings {
    /// Takes in a PING of the client; `route` is the socket that answers, if any is connected.
    pub(super) fn receive_from_client(
        &mut self,
        head: Head,
        payload: &[u8],
        route: Option<Route>,
        out: &mut FrameOutput,
    ) -> Result<(), ConnectionError> {
        let ping = read(payload)?;
        if head.has(frame::ACK) {
            let at = self.upstream.iter().position(|(_, sent)| *sent == ping);
            if let Some((route, _)) = at.and_then(|at| self.upstream.remove(at)) {
                frame::put_ping(&mut out.upstream(route).octets, frame::ACK, ping);
            }
            return Ok(());
        }
        match route {
            Some(route) if self.client.len() < MAX_UNANSWERED => {
                self.client.push_back((route, ping));
                frame::put_ping(&mut out.upstream(route).octets, 0, ping);
            }
            _ => frame::put_ping(&mut out.client, frame::ACK, ping),
        }
        Ok(())
    }

    /// Takes in a PING of the socket of `route`.
    pub(super) fn receive_from_upstream(
        &mut self,
        route: Route,
        head: Head,
        payload: &[u8],
        out: &mut FrameOutput,
    ) -> Result<(), ConnectionError> {
        let ping = read(payload)?;
        if head.has(frame::ACK) {
            let at = self.client.iter().position(|sent| *sent == (route, ping));
            if at.and_then(|at| self.client.remove(at)).is_some() {
                frame::put_ping(&mut out.client, frame::ACK, ping);
            }
        } else if self.upstream.len() < MAX_UNANSWERED {
            self.upstream.push_back((route, ping));
            frame::put_ping(&mut out.client, 0, ping);
        } else {
            frame::put_ping(&mut out.upstream(route).octets, frame::ACK, ping);
        }
        Ok(())
    }

    /// The connection to the socket of `route` is gone: what it owed is answered in its name.
    pub(super) fn upstream_lost(&mut self, route: Route, out: &mut FrameOutput) {
        self.upstream.retain(|(of, _)| *of != route);
        self.client.retain(|(to, ping)| {
            if *to == route {
                frame::put_ping(&mut out.client, frame::ACK, *ping);
            }
            *to != route
        });
    }
}

fn read(payload: &[u8]) -> Result<Payload, ConnectionError> {
    let read = payload.try_into().ok();
    read.ok_or_else(|| ConnectionError::new(frame::FRAME_SIZE_ERROR, "PING is not of 8 octets"))
}
