//! What the scheduler did, as people and scripts see it: where containers ran, waited and migrated.
//!
//! [`TopView`] is the data, from a telemetry snapshot or as the difference of two. It is shown as text (`text`), as a live
//! picture or as JSON. [`Screen`] is the live picture, which never touches a terminal itself: what is on it and what keys do
//! (`screen`), drawn (`draw`) as a table (`columns`, `names`), the detail of a container (`detail`) or the help, with a map
//! of the CPUs (`map`).

mod columns;
mod detail;
mod draw;
mod fit;
mod map;
mod names;
mod screen;
mod text;
mod units;
mod view;

pub use screen::Screen;
pub use view::{NonContainerTotals, Seat, TopContainer, TopView};

#[cfg(test)]
mod tests;
