//! The two windows of a connection, and frames that wait for one of them.

use crate::cri::{
    frame::{self, Head},
    session::error::ConnectionError,
};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

/// The windows of one connection, and what waits for them.
#[derive(Debug)]
pub(super) struct Windows {
    /// Octets of DATA that the peer takes.
    pub(super) send_window: i64,
    /// Octets of DATA that the peer may send.
    pub(super) recv_window: i64,
    /// The largest frame that the peer takes.
    pub(super) max_frame: usize,
    /// Octets of DATA that wait to be sent.
    pub(super) awaiting_octets: i64,
    /// Towards the runtime: calls that wait for the connection, for its window, or for the socket to be read.
    pub(super) waiting: BTreeSet<u32>,
    /// Towards the client: frames that wait for its window, with their stream.
    pub(super) awaiting_window: VecDeque<(u32, Bytes)>,
    /// Octets of those frames, and what it takes to keep them.
    pub(super) kept: usize,
}

/// Octets that it takes to keep a frame, on top of its own.
pub(super) const KEPT: usize = 64;

impl Windows {
    pub(super) const NEW: Self = Self {
        send_window: frame::DEFAULT_WINDOW,
        recv_window: frame::DEFAULT_WINDOW,
        max_frame: 1 << 14,
        awaiting_octets: 0,
        waiting: BTreeSet::new(),
        awaiting_window: VecDeque::new(),
        kept: 0,
    };

    /// Counts DATA of the peer; `text` is what is wrong with more than it was granted.
    pub(super) fn receive(&mut self, octets: usize, text: &str) -> Result<(), ConnectionError> {
        self.recv_window -= signed(octets);
        if self.recv_window < 0 {
            return Err(ConnectionError::new(frame::FLOW_CONTROL_ERROR, text));
        }
        Ok(())
    }

    /// The peer takes `octets` more.
    pub(super) fn grow(&mut self, octets: u32) -> Result<(), ConnectionError> {
        let window = self.send_window + i64::from(octets);
        if octets == 0 {
            let text = "WINDOW_UPDATE of 0 octets";
            return Err(ConnectionError::new(frame::PROTOCOL_ERROR, text));
        }
        if window > i64::from(frame::MAX_WINDOW) {
            let text = "the window is larger than it can be";
            return Err(ConnectionError::new(frame::FLOW_CONTROL_ERROR, text));
        }
        self.send_window = window;
        Ok(())
    }

    /// Keeps frames of a stream, with `octets` of DATA, until the peer takes more.
    pub(super) fn keep(&mut self, id: u32, frames: &Bytes, octets: i64) {
        self.awaiting_octets += octets;
        self.kept += KEPT + frames.len();
        self.awaiting_window.push_back((id, frames.clone()));
    }

    /// Drops what waits of a stream.
    pub(super) fn drop_stream(&mut self, id: u32) {
        let (awaiting, kept) = (&mut self.awaiting_octets, &mut self.kept);
        self.awaiting_window.retain(|(of, frames)| {
            if *of == id {
                *awaiting -= data_len(frames);
                *kept -= KEPT + frames.len();
            }
            *of != id
        });
    }
}

/// What a frame counts in flow control.
pub(super) fn data_len(frame: &[u8]) -> i64 {
    Head::read(frame)
        .filter(|head| head.kind == frame::DATA)
        .map_or(0, |head| signed(head.len))
}

/// Octets as a part of a window.
pub(in crate::cri::session) fn signed(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

/// A part of a window as octets, none where it is negative.
pub(super) fn unsigned(octets: i64) -> usize {
    usize::try_from(octets).unwrap_or(0)
}
