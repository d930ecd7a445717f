//! `cri-resmgr install` and `uninstall`: this machine as the host, CRI and `restore` as the installer needs them.

use super::{output::print, restore::from_ledger};
use crate::{
    cli::{self, InstallArguments},
    config::Raw,
    cri::client::RuntimeClient,
    daemon::{error::ExitError, options::resolve_options},
    install::{
        self, InstallError, InstallOptions, KubeletSetup, LocalFiles, OPTION_FILE,
        PACKAGED_PROGRAM, RELAY_SOCKET, ThisHost,
    },
};
use anyhow::Context as _;
use std::{ffi::OsString, fs, path::Path, time::Duration};

/// How long CRI may take to answer through the relay, which waits for its runtime.
const WAIT: Duration = Duration::from_secs(60);
/// Deadline of a call.
const CALL: Duration = Duration::from_secs(5);
/// How often `--watch` looks, and how often in a row CRI may fail to answer: a runtime may be restarted.
const WATCH: (Duration, u32) = (Duration::from_secs(10), 6);

/// Installs, or brings an installation to this version.
///
/// # Errors
/// Why it is not done, and whether all changes are undone; with `--watch`, what no longer holds.
pub fn install(raw: &Raw, arguments: InstallArguments) -> Result<(), ExitError> {
    // Before the root directory is another.
    let program = fs::read("/proc/self/exe").context("cannot read the program itself")?;
    let own = std::env::current_exe().context("cannot find the program itself")?;
    let given = arguments.option_file.as_deref().map(given_options);
    let given = given.transpose()?;
    let mut host = host(raw)?;
    if let Some((_text, service)) = &given {
        resolve_options(service)?;
    }
    let packaged = own == Path::new(PACKAGED_PROGRAM) && own.is_file();
    let prefix = if packaged {
        "/usr/bin"
    } else {
        "/usr/local/bin"
    };
    let options = InstallOptions {
        prefix: arguments.prefix.unwrap_or_else(|| prefix.into()),
        program,
        kubelet: arguments.kubelet,
        upgrade: arguments.upgrade,
        option_file: given.map(|(text, _service)| text),
    };
    if arguments.dry_run {
        return Ok(install::dry_run(&mut host, &options).map_err(anyhow::Error::from)?);
    }
    install::install(&mut host, &options).map_err(anyhow::Error::from)?;
    if arguments.watch {
        // Gives up the lock: a command typed on the node may take it.
        drop(host);
        return Ok(watch(options.kubelet.as_deref())?);
    }
    Ok(())
}

/// Takes an installation back.
///
/// # Errors
/// Why it is not done, or how far it came.
pub fn uninstall(raw: &Raw) -> Result<(), ExitError> {
    let mut host = host(raw)?;
    install::uninstall(&mut host).map_err(anyhow::Error::from)?;
    print("uninstalled")
}

/// This machine; with `--host-root`, the one whose root directory is mounted there.
fn host(raw: &Raw) -> Result<ThisHost, ExitError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ExitError::Usage(
            "install and uninstall change the node: they need root".to_owned(),
        ));
    }
    let root = raw.options.enforce.host_root.text.as_str();
    if !matches!(root, "" | "/") {
        nix::unistd::chroot(root)
            .and_then(|()| nix::unistd::chdir("/"))
            .with_context(|| format!("--host-root: cannot make {root} the root directory"))?;
    }
    let say = |line: &str| {
        // Nothing is lost but the line: the work goes on.
        print(line).ok();
    };
    let restore = || restore().map_err(|error| error.to_string());
    let host = ThisHost::new(
        Box::new(ask_version),
        Box::new(restore),
        Box::new(say),
        WAIT,
    );
    Ok(host.map_err(anyhow::Error::from)?)
}

/// The text of an option file, and the options in it.
fn given_options(path: &Path) -> Result<(String, Raw), ExitError> {
    let mut config = OsString::from("--config=");
    config.push(path);
    let service = cli::parse(vec![OsString::from("cri-resmgr"), config])
        .map_err(|error| ExitError::Usage(error.to_string()))?;
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((text, service.raw))
}

fn ask_version(socket: &Path) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async {
        let client = RuntimeClient::new(socket, CALL, Vec::new());
        client.version().await
    });
    let answer = answer.map_err(|error| error.to_string())?;
    Ok(format!(
        "{} {}",
        answer.runtime_name, answer.runtime_version
    ))
}

/// As `cri-resmgr restore` with the option file of the service.
fn restore() -> Result<String, ExitError> {
    let mut words = vec![OsString::from("cri-resmgr")];
    if Path::new(OPTION_FILE).exists() {
        words.push(format!("--config={OPTION_FILE}").into());
    }
    let service = cli::parse(words).map_err(|error| ExitError::Usage(error.to_string()))?;
    let (config, _topology) = resolve_options(&service.raw)?;
    from_ledger(&config)
}

/// Looks whether the kubelet is pointed at the relay and CRI answers through it, until it is not so.
fn watch(unit: Option<&str>) -> anyhow::Result<()> {
    let (interval, patience) = WATCH;
    let mut failed = 0;
    loop {
        std::thread::sleep(interval);
        let kubelet = KubeletSetup::find(&LocalFiles, unit)?;
        anyhow::ensure!(
            kubelet.is_relayed(),
            "{} uses {} and not cri-resmgr",
            kubelet.unit,
            kubelet.socket.display()
        );
        match ask_version(Path::new(RELAY_SOCKET)) {
            Ok(_version) => failed = 0,
            Err(_why) if failed < patience => failed += 1,
            Err(why) => {
                return Err(InstallError::NoAnswer {
                    socket: RELAY_SOCKET.into(),
                    why,
                }
                .into());
            }
        }
    }
}
