//! What a container asks of the pools: extended resource, command line, environment; later overrides earlier.

use crate::request::{
    Request,
    cmk_isolate::{go_integer, parse_isolate, program},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// The extended resource that counts exclusive CPU lists.
pub const EXCLUSIVE_CORES: &str = "cmk.intel.com/exclusive-cores";

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) pool: String,
    pub(super) socket: Option<u32>,
    pub(super) exclusive: usize,
    pub(super) no_affinity: bool,
    pub(super) command: Option<Vec<String>>,
    /// What was found odd, and how it was learnt, a line each.
    pub(super) notes: Vec<String>,
}

impl Ask {
    pub(super) fn of(request: &Request) -> Result<Self, String> {
        let mut ask = Self::default();
        let mut pool = None;
        let count = request.requirements.extended.get(EXCLUSIVE_CORES).copied();
        ask.exclusive = usize::try_from(count.unwrap_or(0)).unwrap_or(0);
        let isolate = parse_isolate(&request.command, &request.args)?;
        if let Some(found) = &isolate {
            ask.notes.push(format!(
                "cmk isolate on its command line; {} is run",
                program(&found.command)
            ));
            pool.clone_from(&found.pool);
            ask.socket = found.socket;
            ask.no_affinity = found.no_affinity;
            ask.command = Some(found.command.clone());
        }
        for (key, value) in &request.env {
            match key.as_str() {
                "STP_POOL" if !value.is_empty() => pool = Some(value.clone()),
                "STP_SOCKET_ID" => match go_integer(value) {
                    Some(id) => ask.socket = u32::try_from(id).ok(),
                    None => ask.notes.push(format!("STP_SOCKET_ID {value:?} is not an integer: ignored")),
                },
                "STP_NO_AFFINITY" => ask.no_affinity = true,
                "CMK_NUM_CORES" if value.parse().ok() != Some(ask.exclusive) => ask.notes.push(format!(
                    "CMK_NUM_CORES is {value}, but {} of {EXCLUSIVE_CORES} are requested: the latter counts",
                    ask.exclusive
                )),
                _ => {}
            }
        }
        if isolate.is_some() && pool.is_none() {
            return Err("cmk isolate without --pool: name a pool there or in STP_POOL".to_string());
        }
        ask.pool = pool.unwrap_or_else(|| "shared".to_string());
        if ask.pool == "infra" {
            ask.socket = None;
        }
        Ok(ask)
    }
}
