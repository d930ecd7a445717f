//! CRI's messages, field by field, for the reader of their wire format.
//!
//! The table is made of .proto files when the relay is built (`build.rs`): k8s-cri's, and what CRI has got since. It
//! is never used on the way of a call: what goes on to the runtime is the bytes that came.

/// Which message of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// From the client to the runtime.
    Request,
    /// From the runtime to the client.
    Reply,
}

/// A type of message.
#[derive(Debug)]
pub struct MessageType {
    /// Its fields, in the order of their names.
    pub fields: &'static [MessageField],
    /// The index in `fields` of each field number; `u8::MAX` where there is no such field.
    places: &'static [u8],
}

/// A field of a message.
#[derive(Debug)]
pub struct MessageField {
    /// As in the .proto file (snake_case).
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether it holds any number of them; never for maps.
    pub repeated: bool,
}

/// The type of a field's value.
#[derive(Clone, Copy, Debug)]
pub enum FieldKind {
    /// `string`.
    Text,
    /// `bytes`.
    Bytes,
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
    /// `double`.
    Double,
    /// Another message.
    Message(&'static MessageType),
    /// `map<string, string>`.
    Map,
}

impl MessageType {
    /// The index in `fields` of the field with this number.
    #[must_use]
    pub fn place(&self, number: u32) -> Option<u8> {
        let place = *self.places.get(usize::try_from(number).ok()?)?;
        (place != u8::MAX).then_some(place)
    }
}

/// The type of one message of the call on `path` (e.g. `/runtime.v1.RuntimeService/Version`); `None` when this
/// build does not know the method.
///
/// `runtime.v1alpha2` is read by the table of `runtime.v1`: what the older version has, the newer one has by the
/// same numbers, types and names.
#[must_use]
pub fn message_type(path: &str, side: Side) -> Option<&'static MessageType> {
    let method = ["/runtime.v1.", "/runtime.v1alpha2."]
        .into_iter()
        .find_map(|package| path.strip_prefix(package))?;
    let index = generated::METHODS
        .binary_search_by(|(known, ..)| (*known).cmp(method))
        .ok()?;
    let (_, request, reply) = generated::METHODS.get(index)?;
    Some(match side {
        Side::Request => request,
        Side::Reply => reply,
    })
}

/// The paths of all methods of `runtime.v1`, sorted.
pub fn paths() -> impl ExactSizeIterator<Item = String> {
    generated::METHODS
        .iter()
        .map(|(method, ..)| format!("/runtime.v1.{method}"))
}

#[expect(
    non_upper_case_globals,
    reason = "the statics have the names of CRI's messages"
)]
mod generated {
    use super::{FieldKind, MessageField, MessageType};

    include!(concat!(env!("OUT_DIR"), "/cri_schema.rs"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(path: &str, side: Side) -> Vec<&'static str> {
        let message = message_type(path, side).unwrap();
        message.fields.iter().map(|field| field.name).collect()
    }

    #[test]
    fn fields_are_found_by_number_in_the_order_of_their_names() {
        let path = "/runtime.v1.RuntimeService/CreateContainer";
        let names = fields(path, Side::Request);
        assert_eq!(names, ["config", "pod_sandbox_id", "sandbox_config"]);
        let request = message_type(path, Side::Request).unwrap();
        let places = [0, 1, 2, 3, 4, u32::MAX].map(|number| request.place(number));
        assert_eq!(places, [None, Some(1), Some(0), Some(2), None, None]);
    }

    #[test]
    fn every_path_is_known_in_both_versions_and_no_other() {
        assert!(paths().len() >= 43);
        assert!(
            paths().is_sorted_by(|a, b| a < b),
            "a method is in both .proto files"
        );
        for path in paths() {
            for side in [Side::Request, Side::Reply] {
                let v1 = message_type(&path, side).unwrap();
                let older = path.replace("runtime.v1.", "runtime.v1alpha2.");
                assert!(std::ptr::eq(v1, message_type(&older, side).unwrap()));
            }
        }
        for path in [
            "/runtime.v1.RuntimeService/Dance",
            "nonsense",
            "",
            "/runtime.v2.X/Version",
        ] {
            assert!(message_type(path, Side::Reply).is_none(), "{path}");
        }
    }
}
