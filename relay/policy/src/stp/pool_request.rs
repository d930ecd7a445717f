//! What a container asks of the pools: extended resource, command line, environment; later overrides earlier.

use crate::{
    explanation::Reason,
    request::{
        Request,
        cmk_isolate::{
            EXCLUSIVE_CORES, EXCLUSIVE_NON_ISOLCPUS_CORES, NON_ISOLCPUS_POOL, go_integer,
            parse_isolate, program,
        },
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
    /// How many lists of an exclusive pool it requests by the extended resource of the pool.
    pub(super) exclusive: usize,
    /// How many it gets of an exclusive pool when it requests none.
    pub(super) lists_if_exclusive: usize,
    pub(super) no_affinity: bool,
    pub(super) command: Option<Vec<String>>,
    /// How that was learnt, and what was ignored.
    pub(super) notes: Vec<Reason>,
}

impl PoolRequest {
    pub(super) fn of(request: &Request) -> Result<Self, String> {
        let mut asked = Self::default();
        let mut pool = None;
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
        let mut num_cores = None;
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
                "CMK_NUM_CORES" => num_cores = Some(value),
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
        let resource = match asked.pool.as_str() {
            NON_ISOLCPUS_POOL => EXCLUSIVE_NON_ISOLCPUS_CORES,
            _ => EXCLUSIVE_CORES,
        };
        let count = request.requirements.extended.get(resource).copied();
        asked.exclusive = usize::try_from(count.unwrap_or(0)).unwrap_or(0);
        let stated: Option<usize> = num_cores.and_then(|value| value.parse().ok());
        // CMK itself counts by the variable, and takes one list without it.
        if isolate.is_some() && asked.exclusive == 0 {
            asked.lists_if_exclusive = stated.unwrap_or(1);
        } else if let Some(value) = num_cores.filter(|_| stated != Some(asked.exclusive)) {
            asked.notes.push(Reason::NumCoresIgnored {
                value: value.clone(),
                requested: asked.exclusive,
            });
        }
        Ok(asked)
    }
}
