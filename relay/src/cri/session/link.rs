//! What a session knows of one socket of the runtime.

use super::*;

/// The settings (RFC 9113, 6.5.2) of a receiver that matter to those who send to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) max_streams: u32,
    pub(super) initial_window: u32,
    pub(super) max_frame: usize,
    pub(super) max_list: u32,
}

impl Settings {
    /// In force until others are heard of.
    pub(super) const DEFAULT: Self = Self {
        max_streams: u32::MAX,
        initial_window: 65_535,
        max_frame: frame::DEFAULT_MAX_FRAME,
        max_list: u32::MAX,
    };

    /// What both take.
    pub(super) fn least(self, other: Self) -> Self {
        Self {
            max_streams: self.max_streams.min(other.max_streams),
            initial_window: self.initial_window.min(other.initial_window),
            max_frame: self.max_frame.min(other.max_frame),
            max_list: self.max_list.min(other.max_list),
        }
    }

    /// Takes in a SETTINGS payload.
    pub(super) fn read(&mut self, payload: &[u8]) -> Result<(), Fault> {
        for (key, value) in frame::settings(payload) {
            match key {
                3 => self.max_streams = value,
                4 if value > frame::MAX_STREAM => {
                    let text = format!("INITIAL_WINDOW_SIZE {value}");
                    return Err(fault(frame::FLOW_CONTROL_ERROR, text));
                }
                4 => self.initial_window = value,
                5 => self.max_frame = max_frame(value)?,
                6 => self.max_list = value,
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes what differs from `before` as a SETTINGS frame.
    pub(super) fn put_changes(self, before: Self, out: &mut BytesMut) {
        let frame_octets = |settings: Self| u32::try_from(settings.max_frame).unwrap_or(u32::MAX);
        let list = [
            (3, self.max_streams, before.max_streams),
            (4, self.initial_window, before.initial_window),
            (5, frame_octets(self), frame_octets(before)),
            (6, self.max_list, before.max_list),
        ];
        let changes = list.into_iter().filter(|(_, now, then)| now != then);
        frame::put_settings(out, changes.map(|(key, now, _)| (key, now)));
    }
}

/// One socket of the runtime, as one client sees it.
#[derive(Debug)]
pub(super) struct Link {
    /// What is to be sent to it.
    pub(super) out: BytesMut,
    pub(super) connected: bool,
    /// Its settings have arrived.
    pub(super) greeted: bool,
    pub(super) settings: Settings,
    /// Frames that wait for the connection, with their stream.
    pub(super) pending: Vec<(u32, Bytes)>,
    /// Frames that wait for a window of this socket, with their stream.
    pub(super) blocked: VecDeque<(u32, Bytes)>,
    pub(super) headers: Decoder,
    pub(super) encoder: Encoder,
    pub(super) block: Option<Block>,
    /// What it takes on the whole connection.
    pub(super) window: i64,
    /// What it may send on the whole connection.
    pub(super) may_send: i64,
    /// Serial numbers of the client's settings that it has not acknowledged yet.
    pub(super) asked: VecDeque<u64>,
}

impl Link {
    pub(super) fn new(max_list: usize) -> Self {
        Self {
            out: BytesMut::new(),
            connected: false,
            greeted: false,
            settings: Settings::DEFAULT,
            pending: Vec::new(),
            blocked: VecDeque::new(),
            headers: Decoder::new(max_list),
            encoder: Encoder::default(),
            block: None,
            window: frame::DEFAULT_WINDOW,
            may_send: frame::DEFAULT_WINDOW,
            asked: VecDeque::new(),
        }
    }

    /// Sends frames on, or keeps them until the connection is there.
    pub(super) fn forward(&mut self, id: u32, octets: &[u8]) {
        if self.connected {
            self.out.extend_from_slice(octets);
        } else {
            self.pending.push((id, Bytes::copy_from_slice(octets)));
        }
    }

    /// Ends a call that this socket knows of.
    pub(super) fn reset(&mut self, id: u32, code: u32) {
        if self.connected {
            frame::put_reset(&mut self.out, id, code);
        }
    }
}

pub(super) fn max_frame(value: u32) -> Result<usize, Fault> {
    if (1 << 14..1 << 24).contains(&value) {
        return Ok(to_usize(value));
    }
    Err(fault(
        frame::PROTOCOL_ERROR,
        format!("MAX_FRAME_SIZE {value}"),
    ))
}
