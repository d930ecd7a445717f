//! The live picture: what is on the screen, and what keys change. Pure; `daemon::commands` owns the terminal, `draw` draws.

use super::{
    columns::{Column, existing},
    view::{TopContainer, TopView},
};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::ops::ControlFlow;

/// The screen: the last two pictures and how they are shown.
#[derive(Debug)]
pub struct Screen {
    last: TopView,
    between: Option<TopView>,
    /// What rows are sorted by; without a column, those that are hurt most come first.
    pub(super) order: Option<Column>,
    pub(super) reversed: bool,
    /// Id of the selected container.
    selected: Option<String>,
    /// Where it was last, for when it has gone.
    cursor: usize,
    pub(super) pane: Pane,
    /// Names contain it, in any case.
    pub(super) filter: String,
    /// Whether keys write the filter.
    pub(super) typing: bool,
    pub(super) paused: bool,
    total: bool,
    /// Whether the CPUs are drawn; without a choice, where they leave room for the containers.
    pub(super) map: Option<bool>,
    pub(super) colour: bool,
    /// Why the picture is not fresh.
    pub(super) trouble: Option<String>,
    /// Why the container with this id is where it is.
    decision: Option<(String, String)>,
    /// As last drawn.
    pub(super) drawn: Drawn,
}

/// What of the screen depends on its size.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drawn {
    /// The first row that is shown.
    pub(super) first: usize,
    /// Rows of containers.
    pub(super) page: usize,
    /// Whether the CPUs are.
    pub(super) map: bool,
}

/// What takes the place of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Table,
    Detail,
    /// With what it covers.
    Help {
        detail: bool,
    },
}

impl Screen {
    /// Begins with a first picture, whose numbers count from when a container was first measured.
    #[must_use]
    pub fn new(first: TopView, colour: bool) -> Self {
        Self {
            last: first,
            between: None,
            order: None,
            reversed: false,
            selected: None,
            cursor: 0,
            pane: Pane::Table,
            filter: String::new(),
            typing: false,
            paused: false,
            total: false,
            map: None,
            colour,
            trouble: None,
            decision: None,
            drawn: Drawn::default(),
        }
    }

    /// Takes the next picture; while paused it is dropped.
    pub fn update(&mut self, now: TopView) {
        self.trouble = None;
        if self.paused {
            return;
        }
        self.between = Some(now.since(&self.last));
        self.last = now;
        self.decision = None;
    }

    /// Shows why there is no newer picture; the last one stays.
    pub fn trouble(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// Id of the container in the detail pane, while its decision is not known.
    #[must_use]
    pub fn unexplained(&self) -> Option<&str> {
        let id = &self.detailed()?.id;
        let known = self.decision.as_ref().map(|(known, _)| known);
        (known != Some(id)).then_some(id)
    }

    /// Takes the decision about the container with this id; empty when there is none.
    pub fn explain(&mut self, id: String, decision: String) {
        self.decision = Some((id, decision));
    }

    /// The decision about a container, if it is known.
    pub(super) fn decision(&self, container: &TopContainer) -> Option<&str> {
        let known = self.decision.as_ref().filter(|(id, _)| *id == container.id);
        known
            .map(|(_, decision)| decision.as_str())
            .filter(|decision| !decision.is_empty())
    }

    /// Does what a key asks; breaks when it ends the command.
    pub fn press(&mut self, key: KeyEvent) -> ControlFlow<()> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
        }
        let page = self.drawn.page.max(1);
        match key.code {
            KeyCode::Up => self.select(|now, _| now.saturating_sub(1)),
            KeyCode::Down => self.select(|now, _| now + 1),
            KeyCode::PageUp => self.select(|now, _| now.saturating_sub(page)),
            KeyCode::PageDown => self.select(|now, _| now + page),
            KeyCode::Home => self.select(|_, _| 0),
            KeyCode::End => self.select(|_, last| last),
            code if self.typing => self.write_filter(code),
            KeyCode::Char('q') => return ControlFlow::Break(()),
            KeyCode::Char('k') => self.select(|now, _| now.saturating_sub(1)),
            KeyCode::Char('j') => self.select(|now, _| now + 1),
            KeyCode::Esc => self.close(),
            KeyCode::Enter if self.pane == Pane::Table => {
                // The pane stays with its container when rows change places.
                self.select(|now, _| now);
                self.pane = Pane::Detail;
            }
            KeyCode::Char('?' | 'h') => match self.pane {
                Pane::Help { .. } => self.close(),
                pane => {
                    self.pane = Pane::Help {
                        detail: pane == Pane::Detail,
                    }
                }
            },
            KeyCode::Char('/') => {
                self.pane = Pane::Table;
                self.typing = true;
            }
            KeyCode::Char('>' | '.' | 'o' | 's') => self.sort_by(1),
            KeyCode::Char('<' | ',') => self.sort_by(-1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('t') => self.total = !self.total,
            KeyCode::Char('m') => self.map = Some(!self.drawn.map),
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn write_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            _ => {}
        }
    }

    /// Closes what is open, or forgets the filter.
    fn close(&mut self) {
        match self.pane {
            Pane::Help { detail: true } => self.pane = Pane::Detail,
            Pane::Help { detail: false } | Pane::Detail => self.pane = Pane::Table,
            Pane::Table => self.filter.clear(),
        }
    }

    /// Sorts by the column that is so many further; between the last and the first is what hurts.
    fn sort_by(&mut self, step: isize) {
        let columns = existing(self.view());
        let place = self.order.and_then(|order| {
            let place = columns.iter().position(|column| *column == order);
            place.map(|place| place + 1)
        });
        let places = columns.len() + 1;
        let place = (place.unwrap_or(0) + places).saturating_add_signed(step) % places;
        self.order = place
            .checked_sub(1)
            .and_then(|place| columns.get(place).copied());
    }

    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let rows = self.rows();
        let Some(last) = rows.len().checked_sub(1) else {
            return;
        };
        let cursor = to(self.place(&rows), last).min(last);
        let selected = rows.get(cursor).map(|container| container.id.clone());
        (self.cursor, self.selected) = (cursor, selected);
    }

    /// Which of the rows is selected: the first, until a key selects another.
    pub(super) fn place(&self, rows: &[&TopContainer]) -> usize {
        let selected = self.selected.as_ref();
        let found = selected.and_then(|id| rows.iter().position(|row| row.id == *id));
        found.unwrap_or_else(|| self.cursor.min(rows.len().saturating_sub(1)))
    }

    /// The container in the detail pane; `None` when it has ended.
    pub(super) fn detailed(&self) -> Option<&TopContainer> {
        let selected = self
            .selected
            .as_ref()
            .filter(|_| self.pane == Pane::Detail)?;
        let mut containers = self.view().containers.iter();
        containers.find(|container| container.id == *selected)
    }

    /// The picture that is shown: of the last interval, or of all the time since measuring began.
    pub(super) fn view(&self) -> &TopView {
        match &self.between {
            Some(between) if !self.total => between,
            _ => &self.last,
        }
    }

    /// Containers that pass the filter, in the order shown.
    pub(super) fn rows(&self) -> Vec<&TopContainer> {
        let view = self.view();
        let filter = self.filter.to_lowercase();
        let passes =
            |row: &&TopContainer| filter.is_empty() || row.name().to_lowercase().contains(&filter);
        // The view itself is sorted by what hurts; the sort is stable.
        let mut rows: Vec<_> = view.containers.iter().filter(passes).collect();
        if let Some(order) = self.order {
            rows.sort_by(|a, b| order.order(a, b, view));
        }
        if self.reversed {
            rows.reverse();
        }
        rows
    }
}
