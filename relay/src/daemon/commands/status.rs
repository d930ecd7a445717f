//! `cri-resmgr status`: the status page of a running daemon for a browser, for as long as it is looked at.

use super::{fetch::ask, output::print};
use crate::{config::Raw, daemon::error::ExitError};
use anyhow::Context;
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    sync::Semaphore,
};

/// How many connections a browser may have at once; further ones wait.
const CONNECTIONS: usize = 64;

/// Serves the status page of the daemon that serves the relay socket of these options on a TCP address, until it is
/// interrupted. The daemon itself need not listen on TCP.
///
/// # Errors
/// When no daemon serves, or the address cannot be had.
pub fn status(raw: &Raw, listen: SocketAddr) -> Result<(), ExitError> {
    ask(raw, |socket| serve(socket, listen))
}

async fn serve(socket: PathBuf, listen: SocketAddr) -> anyhow::Result<()> {
    UnixStream::connect(&socket)
        .await
        .with_context(|| format!("cannot reach a running cri-resmgr at {}", socket.display()))?;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr().context("cannot tell the address")?;
    print(&format!(
        "status page: http://{address}/ (until interrupted; every user of this machine can read it)\n"
    ))
    .map_err(|failed| anyhow::anyhow!("{failed}"))?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen for signals"),
        failed = hand_on(listener, socket) => failed,
    }
}

/// Joins each connection to one of the daemon's socket.
async fn hand_on(listener: TcpListener, socket: PathBuf) -> anyhow::Result<()> {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&free).acquire_owned().await?;
        let accepted = listener.accept().await;
        let (browser, _peer) = accepted.context("cannot accept a connection")?;
        let socket = socket.clone();
        tokio::spawn(async move {
            // An end that goes away, and a daemon that restarts, are seen by the browser.
            drop(join(browser, socket).await);
            drop(place);
        });
    }
}

async fn join(mut browser: TcpStream, socket: PathBuf) -> std::io::Result<()> {
    let mut daemon = UnixStream::connect(socket).await?;
    copy_bidirectional(&mut browser, &mut daemon)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    #[tokio::test]
    async fn a_browser_reads_what_the_daemon_writes_also_after_the_daemon_was_away() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("inspect.sock");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(hand_on(listener, socket.clone()));

        let mut early = TcpStream::connect(address).await.unwrap();
        assert_eq!(early.read(&mut [0]).await.unwrap(), 0, "no daemon serves");
        let daemon = UnixListener::bind(socket).unwrap();
        let mut browser = TcpStream::connect(address).await.unwrap();
        let (mut answers, _peer) = daemon.accept().await.unwrap();
        browser.write_all(b"GET").await.unwrap();
        let mut asked = [0; 3];
        answers.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"GET");
        answers.write_all(b"200").await.unwrap();
        drop(answers);
        let mut answer = String::new();
        browser.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "200");
    }
}
