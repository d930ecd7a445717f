//! The ways that a call can take to containerd.

use anyhow::{Context, Result, bail};
use resmgr_tests::{Relay, Runtime, eventually, installed, wire::Wire};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// One way, and the connection that all calls on it share.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) wire: Wire,
    relay: Option<Relay>,
    _copier: Option<Copier>,
}

/// A running `socat`.
struct Copier(Child);

impl Drop for Copier {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

impl Way {
    /// Resident memory of the relay now and at its peak, in KiB.
    pub(crate) fn memory(&self) -> Result<Option<String>> {
        let Some(relay) = &self.relay else {
            return Ok(None);
        };
        let status = std::fs::read_to_string(format!("/proc/{}/status", relay.pid()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default()
                .trim_matches(|c: char| !c.is_ascii_digit())
                .to_owned()
        };
        Ok(Some(format!("{} {}", field("VmRSS:"), field("VmHWM:"))))
    }
}

impl Way {
    /// What the relay has said on dump events that it had to leave out.
    pub(crate) fn dropped(&self) -> u64 {
        let log = self.relay.as_ref().map(Relay::log).unwrap_or_default();
        let counts = log.lines().filter_map(|line| {
            let before = line
                .split(" events dropped")
                .next()
                .filter(|b| *b != line)?;
            before.rsplit([' ', '"']).next()?.parse::<u64>().ok()
        });
        counts.sum()
    }
}

/// All of them; the first is the direct one, the second the byte copier.
pub(crate) async fn all(runtime: &Runtime) -> Result<Vec<Way>> {
    let dump = runtime.folder().join("dump");
    let dump = dump.to_string_lossy();
    let quiet = ["--dump", "reset,off:.*"];
    let full = ["--dump", "reset,full:.*", "--dump-file", &dump];
    Ok(vec![
        Way {
            name: "direct",
            wire: Wire::connect(&runtime.socket()).await?,
            relay: None,
            _copier: None,
        },
        copied(runtime).await?,
        relayed(runtime, "null", "null", &quiet).await?,
        relayed(runtime, "intercepted", "none", &quiet).await?,
        relayed(runtime, "full dump", "null", &full).await?,
    ])
}

async fn relayed(
    runtime: &Runtime,
    name: &'static str,
    policy: &str,
    dump: &[&str],
) -> Result<Way> {
    let folder = name.replace(' ', "-");
    let arguments = [&["--policy", policy], dump].concat();
    let relay = Relay::start_in(runtime, &folder, &arguments)?;
    Ok(Way {
        name,
        wire: Wire::connect(&relay.socket()).await?,
        relay: Some(relay),
        _copier: None,
    })
}

async fn copied(runtime: &Runtime) -> Result<Way> {
    let socket = runtime.folder().join("socat.sock");
    let program = installed("socat").context("socat is not installed")?;
    let child = Command::new(program)
        .arg(format!("UNIX-LISTEN:{}", socket.display()))
        .arg(format!("UNIX-CONNECT:{}", runtime.socket().display()))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start socat")?;
    let copier = Copier(child);
    let listens = eventually(Duration::from_secs(10), async || Path::exists(&socket)).await;
    if !listens {
        bail!("socat does not listen on {}", socket.display());
    }
    Ok(Way {
        name: "socat",
        wire: Wire::connect(&socket).await?,
        relay: None,
        _copier: Some(copier),
    })
}
