//! `cri-resmgr top`: the terminal, its keys, and a picture a second.

use super::{
    fetch::{ask, fetch},
    output::{json, print},
};
use crate::{
    config::Raw,
    daemon::error::ExitError,
    inspect::{
        client,
        top::{Screen, TopView},
        view::ExplainView,
    },
};
use anyhow::Context;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use std::{io::IsTerminal, path::Path, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, timeout},
};

/// How often it asks for a picture.
const INTERVAL: Duration = Duration::from_secs(1);
/// For how long the daemon may make a picture.
const PICTURE_LIMIT: Duration = Duration::from_secs(5);
/// For how long it may explain; keys are not heard meanwhile.
const EXPLAIN_LIMIT: Duration = Duration::from_millis(500);
/// Terminals that know no colours, beside those whose name ends in `-m` or `-mono`.
const WITHOUT_COLOUR: [&str; 4] = ["vt100", "vt102", "vt220", "vt320"];

fn measured(view: Option<TopView>) -> anyhow::Result<TopView> {
    view.context("the running cri-resmgr measures nothing: start it with --ebpf-telemetry")
}

fn picture(raw: &Raw) -> Result<TopView, ExitError> {
    Ok(measured(fetch(raw, "/top")?)?)
}

/// Shows what the scheduler did to every container: once, or again each second until `q`, ^C or a signal. Without a
/// terminal that can move its cursor, pictures follow each other as text.
///
/// # Errors
/// When no daemon answers, it measures nothing, or the terminal cannot be used.
pub fn top(raw: &Raw, once: bool, as_json: bool) -> Result<(), ExitError> {
    let first = picture(raw)?;
    if once {
        return if as_json {
            json(&first)
        } else {
            print(&first.to_string())
        };
    }
    let kind = std::env::var("TERM").unwrap_or_default();
    if as_json || !std::io::stdout().is_terminal() || kind == "dumb" {
        return follow(raw, first, as_json);
    }
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let screen = Screen::new(first, !no_colour && has_colours(&kind));
    // A panic gives the terminal back too: ratatui installs a hook.
    let shown = match ratatui::try_init() {
        Ok(mut terminal) => ask(raw, async |socket| {
            watch(&socket, screen, &mut terminal).await
        }),
        Err(error) => Err(anyhow::Error::new(error)
            .context("cannot use this terminal: try --once")
            .into()),
    };
    let restored = ratatui::try_restore().context("cannot give the terminal back: try `reset`");
    shown.and(restored.map_err(Into::into))
}

/// A difference a second, to a pipe or a file.
fn follow(raw: &Raw, mut before: TopView, as_json: bool) -> Result<(), ExitError> {
    loop {
        std::thread::sleep(INTERVAL);
        let now = picture(raw)?;
        let between = now.since(&before);
        if as_json {
            print(&serde_json::to_string(&between).context("cannot print JSON")?)?;
        } else {
            print(&format!("{between}\n"))?;
        }
        before = now;
    }
}

fn has_colours(terminal: &str) -> bool {
    let monochrome = ["-m", "-mono"]
        .iter()
        .any(|ending| terminal.ends_with(ending));
    !terminal.is_empty() && !monochrome && !WITHOUT_COLOUR.contains(&terminal)
}

async fn watch(
    socket: &Path,
    mut screen: Screen,
    terminal: &mut DefaultTerminal,
) -> anyhow::Result<()> {
    let cannot_listen = "cannot listen for signals";
    let mut terminate = signal(SignalKind::terminate()).context(cannot_listen)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(cannot_listen)?;
    let mut quit = signal(SignalKind::quit()).context(cannot_listen)?;
    let mut hangup = signal(SignalKind::hangup()).context(cannot_listen)?;
    let mut events = events()?;
    let mut next = Box::pin(next_picture(socket));
    loop {
        let unexplained = screen.unexplained().map(ToOwned::to_owned);
        if let Some(id) = unexplained {
            let decision = decision(socket, &id).await.unwrap_or_default();
            screen.explain(id, decision);
        }
        terminal
            .draw(|frame| screen.draw(frame))
            .context("cannot draw on the terminal")?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(pressed))) if pressed.kind == KeyEventKind::Press => {
                    if screen.press(pressed).is_break() {
                        return Ok(());
                    }
                }
                // A terminal of another size is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("cannot read the terminal"),
                None => return Ok(()),
            },
            // A daemon that restarts is waited for; the last picture stays meanwhile.
            view = &mut next => {
                match view {
                    Ok(view) => screen.update(view),
                    Err(error) => screen.trouble(error.to_string()),
                }
                next = Box::pin(next_picture(socket));
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = quit.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// What happens on the terminal, read by a thread that ends with the process.
fn events() -> anyhow::Result<mpsc::Receiver<std::io::Result<Event>>> {
    let (sender, receiver) = mpsc::channel(16);
    let read = move || {
        loop {
            let event = event::read();
            let failed = event.is_err();
            if sender.blocking_send(event).is_err() || failed {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("terminal".to_owned());
    thread.spawn(read).context("cannot start a thread")?;
    Ok(receiver)
}

/// The picture of an interval from now.
async fn next_picture(socket: &Path) -> anyhow::Result<TopView> {
    sleep(INTERVAL).await;
    let view = timeout(PICTURE_LIMIT, client::fetch(socket, "/top")).await;
    let late = || format!("cri-resmgr has not answered for {PICTURE_LIMIT:?}");
    measured(view.with_context(late)??)
}

/// The last decision about a container; `None` where the policy makes none, or the daemon does not answer in time.
async fn decision(socket: &Path, id: &str) -> Option<String> {
    let view = format!("/explain/{id}");
    let view = timeout(EXPLAIN_LIMIT, client::fetch::<ExplainView>(socket, &view)).await;
    let mut decisions = view.ok()?.ok()?.decisions;
    Some(decisions.pop()?.summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_without_colours_are_known() {
        assert!(["xterm", "xterm-256color", "linux", "screen"].map(has_colours) == [true; 4]);
        assert!(["", "vt100", "xterm-mono", "vt220"].map(has_colours) == [false; 4]);
    }
}
