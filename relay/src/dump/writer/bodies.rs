//! Message bodies as YAML.

use crate::{
    cri::{
        decode::{Side, show},
        shape::shape,
    },
    dump::yaml::{Into, Yaml},
};

/// What a body says.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    /// YAML; ends with a newline.
    pub(super) yaml: &'a [u8],
    /// Where its lines end.
    pub(super) ends: &'a [usize],
    /// The container it is about.
    pub(super) container: Option<String>,
}

/// Makes YAML of bodies.
#[derive(Debug, Default)]
pub(super) struct Bodies(Yaml);

impl Bodies {
    /// What `body` says; `None` when it is not a message that this build knows.
    pub(super) fn show(
        &mut self,
        path: &str,
        side: Side,
        body: &[u8],
        secrets: bool,
    ) -> Option<Shown<'_>> {
        let yaml = &mut self.0;
        let read = shape(path, side).and_then(|shape| yaml.read(shape, body, secrets));
        if read.is_none() {
            show(path, side, body, Into { yaml, secrets })?;
        }
        Some(Shown {
            container: yaml.container(),
            yaml: &yaml.text,
            ends: &yaml.ends,
        })
    }
}
