//! Message bodies as YAML, and the memory of the last ones: the kubelet asks for the same lists every
//! second, and mostly nothing has changed.

use crate::{
    cri::decode::{Side, show},
    dump::yaml::{Into, Yaml},
};
use bytes::Bytes;
use std::collections::HashMap;

/// Octets of texts and bodies that are remembered at most.
const REMEMBERED: usize = 2 << 20;

/// What a body says.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    /// YAML; ends with a newline.
    pub(super) yaml: &'a [u8],
    /// The container it is about.
    pub(super) container: Option<&'a str>,
}

/// Makes YAML of bodies.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    fresh: Yaml,
    container: Option<String>,
    /// The last request and the last reply of the methods that are asked for again and again, by path.
    requests: HashMap<Box<str>, Known>,
    replies: HashMap<Box<str>, Known>,
    remembered: usize,
}

#[derive(Debug)]
struct Known {
    body: Bytes,
    yaml: Box<[u8]>,
    container: Option<Box<str>>,
}

impl Known {
    fn size(&self) -> usize {
        self.body.len() + self.yaml.len()
    }
}

impl Bodies {
    /// What `body` says; `None` when it is not a message that this build knows.
    pub(super) fn show(
        &mut self,
        path: &str,
        side: Side,
        body: &Bytes,
        secrets: bool,
    ) -> Option<Shown<'_>> {
        let known = match side {
            Side::Request => &mut self.requests,
            Side::Reply => &mut self.replies,
        };
        if known.get(path).is_none_or(|known| known.body != *body) {
            let yaml = &mut self.fresh;
            show(path, side, body, Into { yaml, secrets })?;
            self.container = self.fresh.container();
            let size = body.len() + self.fresh.text.len();
            if !asked_often(path) || size > REMEMBERED / 2 {
                return Some(Shown {
                    yaml: &self.fresh.text,
                    container: self.container.as_deref(),
                });
            }
            let new = Known {
                body: body.clone(),
                yaml: self.fresh.text.as_slice().into(),
                container: self.container.as_deref().map(Box::from),
            };
            let old = known.insert(path.into(), new);
            self.remembered += size;
            self.remembered -= old.map_or(0, |old| old.size());
            if self.remembered > REMEMBERED {
                self.forget_but(path, side);
            }
        }
        let known = match side {
            Side::Request => &self.requests,
            Side::Reply => &self.replies,
        };
        known.get(path).map(|known| Shown {
            yaml: &known.yaml,
            container: known.container.as_deref(),
        })
    }

    fn forget_but(&mut self, path: &str, side: Side) {
        let keep = |one: Side| move |known: &str| known == path && one == side;
        self.requests.retain(|known, _| keep(Side::Request)(known));
        self.replies.retain(|known, _| keep(Side::Reply)(known));
        let all = self.requests.values().chain(self.replies.values());
        self.remembered = all.map(Known::size).sum();
    }
}

/// Methods without arguments of weight, whose answers carry no secrets beyond those of a list.
fn asked_often(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    method.starts_with("List") || matches!(method, "Version" | "Status" | "ImageFsInfo")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::message as v1;
    use prost::Message as _;

    fn list(image: &str) -> Bytes {
        let image = v1::Image {
            id: image.to_owned(),
            ..Default::default()
        };
        let images = vec![image];
        v1::ListImagesResponse { images }.encode_to_vec().into()
    }

    #[test]
    fn a_changed_answer_is_never_shown_as_the_one_before() {
        let mut bodies = Bodies::default();
        let path = "/runtime.v1.ImageService/ListImages";
        for id in ["a", "a", "b", "a"] {
            let shown = bodies.show(path, Side::Reply, &list(id), false).unwrap();
            let expected = format!("images:\n- id: {id}\n");
            assert_eq!(String::from_utf8_lossy(shown.yaml), expected);
        }
        let request = bodies.show(path, Side::Request, &Bytes::new(), false);
        assert_eq!(request.unwrap().yaml, b"{}\n");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut bodies = Bodies::default();
        let long = "x".repeat(REMEMBERED / 5);
        for version in ["v1", "v1alpha2"] {
            for _ in 0..2 {
                let path = format!("/runtime.{version}.ImageService/ListImages");
                let shown = bodies.show(&path, Side::Reply, &list(&long), false);
                assert!(shown.unwrap().yaml.len() > long.len());
            }
        }
        let path = "/runtime.v1.RuntimeService/Version";
        let reply = v1::VersionResponse {
            version: long,
            ..Default::default()
        };
        let reply = Bytes::from(reply.encode_to_vec());
        assert!(bodies.show(path, Side::Reply, &reply, false).is_some());
        assert!(bodies.remembered <= REMEMBERED);
        assert!(bodies.replies.contains_key(path));
    }
}
