//! The parameters of SETTINGS (RFC 9113, 6.5.2).

use crate::cri::{frame, options::ServerOptions, session::error::ConnectionError};

/// The largest frame that the relay takes of a client: a frame is taken in whole.
const MAX_FRAME: u32 = 1 << 20;

/// The settings of a receiver that matter to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) max_concurrent_streams: u32,
    pub(super) initial_window: u32,
    pub(super) max_frame: u32,
    pub(super) max_header_list: u32,
}

impl Settings {
    /// In force until the first SETTINGS frame.
    pub(super) const DEFAULT: Self = Self {
        max_concurrent_streams: u32::MAX,
        initial_window: 65_535,
        max_frame: frame::DEFAULT_MAX_FRAME,
        max_header_list: u32::MAX,
    };

    /// What the relay takes, whatever the sockets do.
    pub(super) fn of_relay(options: &ServerOptions) -> Self {
        Self {
            max_concurrent_streams: options.max_concurrent_streams,
            initial_window: frame::MAX_WINDOW,
            max_frame: MAX_FRAME,
            max_header_list: u32::try_from(options.max_header_list_bytes).unwrap_or(u32::MAX),
        }
    }

    /// What both take.
    pub(super) fn least(self, other: Self) -> Self {
        Self {
            max_concurrent_streams: self
                .max_concurrent_streams
                .min(other.max_concurrent_streams),
            initial_window: self.initial_window.min(other.initial_window),
            max_frame: self.max_frame.min(other.max_frame),
            max_header_list: self.max_header_list.min(other.max_header_list),
        }
    }

    /// Takes in the payload of a SETTINGS frame.
    pub(super) fn update(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        for (key, value) in frame::settings(payload) {
            check(key, value)?;
            match key {
                frame::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = value,
                frame::INITIAL_WINDOW_SIZE => self.initial_window = value,
                frame::MAX_FRAME_SIZE => self.max_frame = value,
                frame::MAX_HEADER_LIST_SIZE => self.max_header_list = value,
                _ => {}
            }
        }
        Ok(())
    }

    /// What differs from `before`, as parameters of a SETTINGS frame.
    pub(super) fn changes(self, before: Self) -> impl Iterator<Item = (u16, u32)> {
        let parameters = |settings: Self| {
            [
                (
                    frame::MAX_CONCURRENT_STREAMS,
                    settings.max_concurrent_streams,
                ),
                (frame::INITIAL_WINDOW_SIZE, settings.initial_window),
                (frame::MAX_FRAME_SIZE, settings.max_frame),
                (frame::MAX_HEADER_LIST_SIZE, settings.max_header_list),
            ]
        };
        let pairs = parameters(self).into_iter().zip(parameters(before));
        pairs.filter_map(|(now, before)| (now != before).then_some(now))
    }
}

/// Whether a parameter may have this value.
pub(super) fn check(key: u16, value: u32) -> Result<(), ConnectionError> {
    let (name, legal, code) = match key {
        frame::ENABLE_PUSH => ("ENABLE_PUSH", value <= 1, frame::PROTOCOL_ERROR),
        frame::INITIAL_WINDOW_SIZE => (
            "INITIAL_WINDOW_SIZE",
            value <= frame::MAX_WINDOW,
            frame::FLOW_CONTROL_ERROR,
        ),
        frame::MAX_FRAME_SIZE => (
            "MAX_FRAME_SIZE",
            (1 << 14..1 << 24).contains(&value),
            frame::PROTOCOL_ERROR,
        ),
        _ => return Ok(()),
    };
    if legal {
        return Ok(());
    }
    Err(ConnectionError::new(code, format!("{name} {value}")))
}
