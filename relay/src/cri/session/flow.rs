//! Flow control (RFC 9113, 5.2): each side is granted what the other takes, and no more.
//!
//! With one socket behind the client, every WINDOW_UPDATE is passed on for what it is worth. Windows of
//! two sockets, or of a new connection to a restarted runtime, do not match what the client was granted:
//! the difference waits in `blocked` (towards the runtime) or `queued` (towards the client) and is kept
//! from later grants. Both are bounded by what one side was granted by the other.

use super::*;

impl Session {
    /// Grants the client what the sockets take on the whole connection.
    pub(super) fn grant_client(&mut self) {
        let room = |route: &Route| self.links[route.index()].window;
        let room = self.shared.upstreams.routes().iter().map(room).max();
        let grant = room.unwrap_or(0) - self.blocked_octets - self.client_credit;
        if grant > 0 {
            frame::put_window_update(&mut self.to_client, 0, unsigned(grant));
            self.client_credit += grant;
        }
    }

    /// Grants the client what the runtime takes on stream `id`.
    pub(super) fn grant_stream(&mut self, id: u32) {
        let initial = i64::from(self.announced.initial_window);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        // The client of a held call has had all its window from the relay itself.
        if stream.client_done || stream.held.is_some() {
            return;
        }
        let grant = stream.window - stream.blocked - (initial + stream.granted);
        if grant > 0 {
            frame::put_window_update(&mut self.to_client, id, unsigned(grant));
            stream.granted += grant;
        }
    }

    /// Grants the sockets what the client takes on the whole connection.
    pub(super) fn grant_links(&mut self) {
        let room = self.client_room - self.queued_octets;
        for link in self.links.iter_mut().filter(|link| link.connected) {
            let grant = room - link.may_send;
            if grant > 0 {
                frame::put_window_update(&mut link.out, 0, unsigned(grant));
                link.may_send += grant;
            }
        }
    }

    /// Frames of one stream on their way to the runtime, in order, as the windows allow.
    pub(super) fn pass_up(&mut self, id: u32, octets: &Bytes) {
        let len = signed(data_len(octets));
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let link = &mut self.links[stream.route.index()];
        let fits = len == 0 || (len <= link.window && len <= stream.window);
        if fits && link.blocked.is_empty() {
            stream.window -= len;
            link.window -= len;
            link.forward(id, octets);
        } else {
            stream.blocked += len;
            self.blocked_octets += len;
            link.blocked.push_back((id, octets.clone()));
        }
    }

    /// Sends what has waited for the windows of a socket.
    pub(super) fn unblock(&mut self, route: Route) {
        let link = &mut self.links[route.index()];
        if link.blocked.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut link.blocked);
        let mut stuck = HashSet::new();
        while let Some((id, octets)) = waiting.pop_front() {
            let len = signed(data_len(&octets));
            let Some(stream) = self.streams.get_mut(&id) else {
                self.blocked_octets -= len;
                continue;
            };
            if len > link.window {
                link.blocked.push_back((id, octets));
                link.blocked.append(&mut waiting);
                break;
            }
            if stuck.contains(&id) || len > stream.window.max(0) {
                stuck.insert(id);
                link.blocked.push_back((id, octets));
                continue;
            }
            stream.window -= len;
            stream.blocked -= len;
            self.blocked_octets -= len;
            link.window -= len;
            link.forward(id, &octets);
        }
    }

    /// Frames of one stream on their way to the client, in order, as its window allows.
    pub(super) fn pass_down(&mut self, id: u32, octets: &Bytes) {
        let len = signed(data_len(octets));
        if self.queued.is_empty() && len <= self.client_room {
            self.client_room -= len;
            self.to_client.extend_from_slice(octets);
        } else {
            self.queued_octets += len;
            self.queued.push_back((id, octets.clone()));
        }
    }

    /// Sends what has waited for the client's window.
    pub(super) fn unqueue_to_client(&mut self) {
        while let Some((_, octets)) = self.queued.front() {
            let len = signed(data_len(octets));
            if len > self.client_room {
                break;
            }
            self.client_room -= len;
            self.queued_octets -= len;
            self.to_client.extend_from_slice(octets);
            self.queued.pop_front();
        }
    }

    /// Octets that wait here, for whatever reason.
    pub(in crate::cri) fn octets_kept(&self) -> usize {
        let frames =
            |list: &VecDeque<(u32, Bytes)>| list.iter().map(|(_, o)| o.len()).sum::<usize>();
        let links = self.links.iter().map(|link| {
            let pending: usize = link.pending.iter().map(|(_, octets)| octets.len()).sum();
            link.out.len() + pending + frames(&link.blocked)
        });
        self.to_client.len() + frames(&self.queued) + links.sum::<usize>()
    }

    /// Takes back what of a stream that is over has not left for the runtime yet.
    pub(super) fn take_back(&mut self, id: u32, stream: &Stream) {
        self.sending.retain(|sending| *sending != id);
        let link = &mut self.links[stream.route.index()];
        link.pending.retain(|(of, octets)| {
            if *of == id {
                link.window += signed(data_len(octets));
            }
            *of != id
        });
        if stream.blocked > 0 {
            link.blocked.retain(|(of, _)| *of != id);
            self.blocked_octets -= stream.blocked;
        }
        self.grant_client();
    }

    /// Takes back what of a stream that failed waits for the client's window.
    pub(super) fn drop_queued(&mut self, id: u32) {
        if self.queued.is_empty() {
            return;
        }
        let dropped = &mut self.queued_octets;
        self.queued.retain(|(of, octets)| {
            if *of == id {
                *dropped -= signed(data_len(octets));
            }
            *of != id
        });
        self.grant_links();
    }
}

/// What a frame counts in flow control.
fn data_len(octets: &[u8]) -> usize {
    Head::read(octets)
        .filter(|h| h.kind == frame::DATA)
        .map_or(0, |h| h.len)
}

pub(super) fn signed(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

fn unsigned(octets: i64) -> usize {
    usize::try_from(octets).unwrap_or(0)
}
