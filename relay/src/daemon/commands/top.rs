//! `cri-resmgr top`: the terminal, its keys, and a picture a second.

use super::{
    fetch::fetch,
    output::{json, print},
};
use crate::{
    config::Raw,
    daemon::error::ExitError,
    inspect::top::{Screen, ScreenAction, TopView},
};
use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// How often it asks for a picture.
const INTERVAL: Duration = Duration::from_secs(1);

fn picture(raw: &Raw) -> Result<TopView, ExitError> {
    fetch::<Option<TopView>>(raw, "/top")?.ok_or_else(|| {
        ExitError::Run(anyhow::anyhow!(
            "the running cri-resmgr measures nothing: start it with --ebpf-telemetry"
        ))
    })
}

/// Shows what the scheduler did to every container: once, or again each second until `q` or ^C. Without a
/// terminal, pictures follow each other as text.
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
    if as_json || !std::io::stdout().is_terminal() {
        return follow(raw, first, as_json);
    }
    let mut terminal = ratatui::try_init().context("cannot use this terminal: try --once")?;
    let shown = watch(raw, first, &mut terminal);
    ratatui::try_restore().context("cannot give the terminal back: try `reset`")?;
    shown
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

fn watch(
    raw: &Raw,
    first: TopView,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), ExitError> {
    let mut screen = Screen::new(first);
    let mut next = Instant::now() + INTERVAL;
    loop {
        terminal
            .draw(|frame| screen.draw(frame))
            .context("cannot draw on the terminal")?;
        let patience = next.saturating_duration_since(Instant::now());
        if event::poll(patience).context("cannot read the terminal")? {
            let event = event::read().context("cannot read the terminal")?;
            if let Event::Key(pressed) = event
                && pressed.kind == KeyEventKind::Press
            {
                if quits(pressed) {
                    return Ok(());
                }
                if let Some(key) = meaning(pressed) {
                    screen.press(key);
                }
            }
            continue;
        }
        next = Instant::now() + INTERVAL;
        // A daemon that restarts is waited for; the last picture stays meanwhile.
        match picture(raw) {
            Ok(view) => screen.update(view),
            Err(error) => screen.trouble(error.to_string()),
        }
    }
}

fn quits(pressed: KeyEvent) -> bool {
    let interrupt =
        pressed.code == KeyCode::Char('c') && pressed.modifiers.contains(KeyModifiers::CONTROL);
    interrupt || matches!(pressed.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn meaning(pressed: KeyEvent) -> Option<ScreenAction> {
    Some(match pressed.code {
        KeyCode::Up | KeyCode::Char('k') => ScreenAction::Up,
        KeyCode::Down | KeyCode::Char('j') => ScreenAction::Down,
        KeyCode::Char('s') => ScreenAction::Sort,
        KeyCode::Char('t') => ScreenAction::Total,
        KeyCode::Char(' ' | 'p') => ScreenAction::Pause,
        _ => return None,
    })
}
