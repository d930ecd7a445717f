//! What a container asks of the pools: extended resource, command line, environment; later overrides earlier.

use crate::{
    explanation::Reason,
    request::{
        Request,
        cmk_isolate::{EXCLUSIVE_CORES, go_integer, parse_isolate, program},
    },
};
use alloc::{
    string::{String, ToString},
    vec::Vec,
};

/// The pool and the lists a container asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolRequest {
    pub(super) pool: String,
    pub(super) socket: Option<u32>,
    pub(super) exclusive: usize,
    pub(super) no_affinity: bool,
    pub(super) command: Option<Vec<String>>,
    /// How that was learnt, and what was ignored.
    pub(super) notes: Vec<Reason>,
}

impl PoolRequest {
    pub(super) fn of(request: &Request) -> Result<Self, String> {
        let mut asked = Self::default();
        let mut pool = None;
        let count = request.requirements.extended.get(EXCLUSIVE_CORES).copied();
        asked.exclusive = usize::try_from(count.unwrap_or(0)).unwrap_or(0);
        let isolate = parse_isolate(&request.command, &request.args)?;
        if let Some(found) = &isolate {
            asked.notes.push(Reason::CmkIsolate {
                program: program(&found.command).to_string(),
            });
            pool.clone_from(&found.pool);
            asked.socket = found.socket;
            asked.no_affinity = found.no_affinity;
            asked.command = Some(found.command.clone());
        }
        for (key, value) in &request.env {
            match key.as_str() {
                "STP_POOL" if !value.is_empty() => pool = Some(value.clone()),
                "STP_SOCKET_ID" => match go_integer(value) {
                    Some(id) => asked.socket = u32::try_from(id).ok(),
                    None => asked.notes.push(Reason::SocketIdIgnored {
                        value: value.clone(),
                    }),
                },
                "STP_NO_AFFINITY" => asked.no_affinity = true,
                "CMK_NUM_CORES" if value.parse().ok() != Some(asked.exclusive) => {
                    asked.notes.push(Reason::NumCoresIgnored {
                        value: value.clone(),
                        requested: asked.exclusive,
                    });
                }
                _ => {}
            }
        }
        if isolate.is_some() && pool.is_none() {
            return Err("cmk isolate without --pool: name a pool there or in STP_POOL".to_string());
        }
        asked.pool = pool.unwrap_or_else(|| "shared".to_string());
        if asked.pool == "infra" {
            asked.socket = None;
        }
        Ok(asked)
    }
}
