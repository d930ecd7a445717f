//! The fields of the messages that the kubelet asks for again and again, for those who read them as they
//! are on the wire.
//!
//! Only what the decoded form of such a message ([`decode`](super::decode)) shows by the same names is
//! here. A field that is not in the table is a reason to decode: what is missing here costs time, nothing
//! else.
//!
//! Field numbers: `k8s.io/cri-api`, `pkg/apis/runtime/v1/api.proto`.

use crate::cri::decode::Side;

/// A message: its fields, in the order of their names.
#[derive(Debug)]
pub struct Shape {
    fields: &'static [Field],
    /// The place in `fields` of each field number; beyond them where there is none.
    places: [u8; NUMBERS],
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u8,
    /// As in the .proto file.
    pub name: &'static str,
    /// The name, a colon, and spaces up to 32 octets at least.
    pub padded: &'static str,
    /// What it holds.
    pub form: Form,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A text.
    Text,
    /// Any number of texts.
    Texts,
    /// `bool`.
    Bool,
    /// `int32`, or an enumeration.
    Int32,
    /// `int64`.
    Int64,
    /// `uint32`.
    Uint32,
    /// `uint64`.
    Uint64,
    /// A message, or none.
    Message(&'static Shape),
    /// Any number of messages.
    Messages(&'static Shape),
    /// A map of texts to texts.
    Map,
}

/// Field numbers are below this.
const NUMBERS: usize = 32;

impl Shape {
    /// Refuses, when the program is built, fields that are not in order.
    const fn new(fields: &'static [Field]) -> Self {
        let mut places = [u8::MAX; NUMBERS];
        let mut at = 0;
        while at < fields.len() {
            let number = fields[at].number as usize;
            assert!(places[number] == u8::MAX, "a field number comes twice");
            assert!(
                at == 0 || is_before(fields[at - 1].name, fields[at].name),
                "fields are not in the order of their names"
            );
            #[expect(clippy::cast_possible_truncation, reason = "fewer than 32 fields")]
            let place = at as u8;
            places[number] = place;
            at += 1;
        }
        Self { fields, places }
    }

    /// All fields, in the order of their names.
    #[must_use]
    pub fn fields(&self) -> &'static [Field] {
        self.fields
    }

    /// The place among [`Self::fields`] of the field of this number.
    #[must_use]
    pub fn place(&self, number: u32) -> Option<usize> {
        let place = self.places.get(usize::try_from(number).ok()?)?;
        Some(usize::from(*place)).filter(|place| *place < self.fields.len())
    }
}

const fn is_before(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return one[at] < other[at];
        }
        at += 1;
    }
    one.len() < other.len()
}

/// The message of a call on `path`, when it is one of those that are here.
#[must_use]
pub fn shape(path: &str, side: Side) -> Option<&'static Shape> {
    let (service, method) = path.strip_prefix("/runtime.v1.")?.split_once('/')?;
    Some(match (service, method, side) {
        ("RuntimeService", "Version", Side::Request) => &VERSION_REQUEST,
        ("RuntimeService", "Version", Side::Reply) => &VERSION_RESPONSE,
        ("RuntimeService", "ListContainers" | "StreamContainers", Side::Request) => {
            &LIST_CONTAINERS_REQUEST
        }
        ("RuntimeService", "ListContainers" | "StreamContainers", Side::Reply) => {
            &LIST_CONTAINERS_RESPONSE
        }
        ("RuntimeService", "ListPodSandbox" | "StreamPodSandboxes", Side::Request) => {
            &LIST_POD_SANDBOX_REQUEST
        }
        ("RuntimeService", "ListPodSandbox", Side::Reply) => &LIST_POD_SANDBOX_RESPONSE,
        ("RuntimeService", "StreamPodSandboxes", Side::Reply) => &STREAM_POD_SANDBOXES_RESPONSE,
        ("ImageService", "ListImages" | "StreamImages", Side::Request) => &LIST_IMAGES_REQUEST,
        ("ImageService", "ListImages" | "StreamImages", Side::Reply) => &LIST_IMAGES_RESPONSE,
        _ => return None,
    })
}

macro_rules! shapes {
    ($($shape:ident { $($name:ident = $number:literal: $form:expr,)* })*) => {
        $(
            static $shape: Shape = Shape::new(&[$(Field {
                number: $number,
                name: stringify!($name),
                padded: concat!(stringify!($name), ":                               "),
                form: $form,
            }),*]);
        )*
    };
}

shapes! {
    VERSION_REQUEST {
        version = 1: Form::Text,
    }
    VERSION_RESPONSE {
        runtime_api_version = 4: Form::Text,
        runtime_name = 2: Form::Text,
        runtime_version = 3: Form::Text,
        version = 1: Form::Text,
    }
    LIST_CONTAINERS_REQUEST {
        filter = 1: Form::Message(&CONTAINER_FILTER),
    }
    CONTAINER_FILTER {
        id = 1: Form::Text,
        label_selector = 4: Form::Map,
        pod_sandbox_id = 3: Form::Text,
        state = 2: Form::Message(&STATE_VALUE),
    }
    STATE_VALUE {
        state = 1: Form::Int32,
    }
    LIST_CONTAINERS_RESPONSE {
        containers = 1: Form::Messages(&CONTAINER),
    }
    CONTAINER {
        annotations = 9: Form::Map,
        created_at = 7: Form::Int64,
        id = 1: Form::Text,
        image = 4: Form::Message(&IMAGE_SPEC),
        image_id = 10: Form::Text,
        image_ref = 5: Form::Text,
        labels = 8: Form::Map,
        metadata = 3: Form::Message(&CONTAINER_METADATA),
        pod_sandbox_id = 2: Form::Text,
        state = 6: Form::Int32,
    }
    CONTAINER_METADATA {
        attempt = 2: Form::Uint32,
        name = 1: Form::Text,
    }
    IMAGE_SPEC {
        annotations = 2: Form::Map,
        image = 1: Form::Text,
        runtime_handler = 19: Form::Text,
        user_specified_image = 18: Form::Text,
    }
    LIST_POD_SANDBOX_REQUEST {
        filter = 1: Form::Message(&POD_SANDBOX_FILTER),
    }
    POD_SANDBOX_FILTER {
        id = 1: Form::Text,
        label_selector = 3: Form::Map,
        state = 2: Form::Message(&STATE_VALUE),
    }
    LIST_POD_SANDBOX_RESPONSE {
        items = 1: Form::Messages(&POD_SANDBOX),
    }
    STREAM_POD_SANDBOXES_RESPONSE {
        pod_sandboxes = 1: Form::Messages(&POD_SANDBOX),
    }
    POD_SANDBOX {
        annotations = 6: Form::Map,
        created_at = 4: Form::Int64,
        id = 1: Form::Text,
        labels = 5: Form::Map,
        metadata = 2: Form::Message(&POD_SANDBOX_METADATA),
        runtime_handler = 7: Form::Text,
        state = 3: Form::Int32,
    }
    POD_SANDBOX_METADATA {
        attempt = 4: Form::Uint32,
        name = 1: Form::Text,
        namespace = 3: Form::Text,
        uid = 2: Form::Text,
    }
    LIST_IMAGES_REQUEST {
        filter = 1: Form::Message(&IMAGE_FILTER),
    }
    IMAGE_FILTER {
        image = 1: Form::Message(&IMAGE_SPEC),
    }
    LIST_IMAGES_RESPONSE {
        images = 1: Form::Messages(&IMAGE),
    }
    IMAGE {
        id = 1: Form::Text,
        pinned = 8: Form::Bool,
        repo_digests = 3: Form::Texts,
        repo_tags = 2: Form::Texts,
        size = 4: Form::Uint64,
        spec = 7: Form::Message(&IMAGE_SPEC),
        uid = 5: Form::Message(&INT64_VALUE),
        username = 6: Form::Text,
    }
    INT64_VALUE {
        value = 1: Form::Int64,
    }
}
