//! What of a call's request waits for a connection to the runtime, or for its windows.

use crate::cri::held::{HeldBody, HeldBudget, NoRoom};
use bytes::Bytes;
use std::sync::Arc;

/// The part of a request that has not been sent: a header block, DATA, perhaps trailers.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// The frames of the header block that opens the call.
    pub(super) head: Bytes,
    /// Octets that the client grants on the stream, until the header block is sent.
    pub(super) granted: u32,
    /// DATA: first `data`, then `more`.
    data: Bytes,
    more: Option<HeldBody>,
    /// DATA carries the end of the stream.
    end_stream: bool,
    /// The frames of the header block that ends the stream.
    pub(super) trailers: Bytes,
}

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && !self.has_data() && self.trailers.is_empty()
    }

    /// Whether a DATA frame is to be sent.
    pub(super) fn has_data(&self) -> bool {
        self.octets() > 0 || self.end_stream
    }

    /// Octets of DATA.
    pub(super) fn octets(&self) -> usize {
        self.data.len() + self.more.as_ref().map_or(0, HeldBody::len)
    }

    /// Adds DATA of the client.
    pub(super) fn push(
        &mut self,
        part: &[u8],
        end_stream: bool,
        budget: &Arc<HeldBudget>,
    ) -> Result<(), NoRoom> {
        if !part.is_empty() {
            let more = self.more.get_or_insert_with(|| HeldBody::new(budget));
            more.extend(part)?;
        }
        self.end_stream |= end_stream;
        Ok(())
    }

    /// Puts a whole request's DATA here.
    pub(super) fn set(&mut self, data: Bytes) {
        self.data = data;
        self.end_stream = true;
    }

    /// Takes up to `most` octets of DATA off, and whether the stream ends with them.
    pub(super) fn take(&mut self, most: usize) -> (Bytes, bool) {
        if self.data.is_empty()
            && let Some(more) = self.more.take()
        {
            self.data = more.freeze();
        }
        let part = self.data.split_to(most.min(self.data.len()));
        let last = self.octets() == 0 && std::mem::take(&mut self.end_stream);
        (part, last)
    }
}
