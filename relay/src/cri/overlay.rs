//! Changes to a request that lose nothing: the original bytes, with an encoded overlay appended.
//!
//! By protobuf's wire rules a later scalar replaces an earlier one, and embedded messages and maps merge
//! (<https://protobuf.dev/programming-guides/encoding/#last-one-wins>). So a cpuset can be set in a
//! `CreateContainerRequest` without rebuilding it: fields this version has never heard of, the order of
//! environment and mounts, all stay as they were, byte for byte.
//!
//! One thing an overlay cannot do is shorten a repeated field. [`CreateOverlay::command`] therefore cuts
//! the old `command` and `args` out of the bytes, and touches nothing else.
//!
//! Field numbers: `k8s.io/cri-api`, `pkg/apis/runtime/v1/api.proto`; v1alpha2 has the same.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field};

/// The message is not valid protobuf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is not a valid protobuf message")]
pub struct Malformed {
    #[source]
    source: prost::DecodeError,
}

impl From<prost::DecodeError> for Malformed {
    fn from(source: prost::DecodeError) -> Self {
        Self { source }
    }
}

/// Fields of `LinuxContainerResources` to set; `None` leaves the request's own value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceOverlay {
    /// CFS period in µs.
    pub cpu_period: Option<i64>,
    /// CFS quota in µs per period; -1 is none.
    pub cpu_quota: Option<i64>,
    /// CPU shares, on the scale of cgroup v1.
    pub cpu_shares: Option<i64>,
    /// `cpuset.cpus`, in the kernel's list format.
    pub cpuset_cpus: Option<String>,
    /// `cpuset.mems`, in the kernel's list format.
    pub cpuset_mems: Option<String>,
    /// cgroup v2 files and their values; merged with the request's.
    pub unified: Vec<(String, String)>,
}

/// A read-only bind mount to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// Path in the container.
    pub container_path: String,
    /// Path on the host.
    pub host_path: String,
}

/// What to change in a `CreateContainerRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateOverlay {
    /// Linux resources to set.
    pub resources: ResourceOverlay,
    /// Environment entries to append.
    pub envs: Vec<(String, String)>,
    /// Annotations to set.
    pub annotations: Vec<(String, String)>,
    /// Read-only mounts to append. Private: where the host's root is no shared mount, runtimes refuse others.
    pub mounts: Vec<BindMount>,
    /// Replaces the command, and empties the arguments.
    pub command: Option<Vec<String>>,
}

/// What to change in an `UpdateContainerResourcesRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateOverlay {
    /// Linux resources to set.
    pub resources: ResourceOverlay,
}

mod field {
    pub(super) const CREATE_CONFIG: u32 = 2;
    pub(super) const CONFIG_COMMAND: u32 = 3;
    pub(super) const CONFIG_ARGS: u32 = 4;
    pub(super) const CONFIG_ENVS: u32 = 6;
    pub(super) const CONFIG_MOUNTS: u32 = 7;
    pub(super) const CONFIG_ANNOTATIONS: u32 = 10;
    pub(super) const CONFIG_LINUX: u32 = 15;
    pub(super) const LINUX_RESOURCES: u32 = 1;
    pub(super) const UPDATE_LINUX: u32 = 2;
}

fn text(tag: u32, value: &str, out: &mut BytesMut) {
    message(tag, value.as_bytes(), out);
}

fn message(tag: u32, value: &[u8], out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.put_slice(value);
}

/// Encodes even a zero: it must override an earlier value.
fn number(tag: u32, value: i64, out: &mut BytesMut) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(value.cast_unsigned(), out);
}

/// A map entry, and any message of two strings: key is field 1, value field 2.
fn pair(tag: u32, (key, value): &(String, String), out: &mut BytesMut) {
    let mut entry = BytesMut::new();
    text(1, key, &mut entry);
    text(2, value, &mut entry);
    message(tag, &entry, out);
}

impl ResourceOverlay {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        for (tag, value) in [
            (1, self.cpu_period),
            (2, self.cpu_quota),
            (3, self.cpu_shares),
        ] {
            if let Some(value) = value {
                number(tag, value, &mut out);
            }
        }
        for (tag, value) in [(6, &self.cpuset_cpus), (7, &self.cpuset_mems)] {
            if let Some(value) = value {
                text(tag, value, &mut out);
            }
        }
        for entry in &self.unified {
            pair(9, entry, &mut out);
        }
        out
    }
}

impl CreateOverlay {
    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// The request with the changes; the original bytes come first, untouched unless
    /// [`command`](Self::command) is set.
    ///
    /// # Errors
    /// [`Malformed`] when the command shall be replaced in bytes that are not protobuf.
    pub fn apply(&self, original: &Bytes) -> Result<Bytes, Malformed> {
        if self.is_empty() {
            return Ok(original.clone());
        }
        let mut config = BytesMut::new();
        for argument in self.command.iter().flatten() {
            text(field::CONFIG_COMMAND, argument, &mut config);
        }
        for entry in &self.envs {
            pair(field::CONFIG_ENVS, entry, &mut config);
        }
        for mount in &self.mounts {
            let mut entry = BytesMut::new();
            text(1, &mount.container_path, &mut entry);
            text(2, &mount.host_path, &mut entry);
            number(3, 1, &mut entry);
            message(field::CONFIG_MOUNTS, &entry, &mut config);
        }
        for entry in &self.annotations {
            pair(field::CONFIG_ANNOTATIONS, entry, &mut config);
        }
        let resources = self.resources.encode();
        if !resources.is_empty() {
            let mut linux = BytesMut::new();
            message(field::LINUX_RESOURCES, &resources, &mut linux);
            message(field::CONFIG_LINUX, &linux, &mut config);
        }
        let mut out = BytesMut::with_capacity(original.len() + config.len() + 8);
        if self.command.is_some() {
            cut_command(original.clone(), &mut out)?;
        } else {
            out.put_slice(original);
        }
        message(field::CREATE_CONFIG, &config, &mut out);
        Ok(out.freeze())
    }
}

impl UpdateOverlay {
    /// The request with the changes appended.
    #[must_use]
    pub fn apply(&self, original: &Bytes) -> Bytes {
        let resources = self.resources.encode();
        if resources.is_empty() {
            return original.clone();
        }
        let mut out = BytesMut::with_capacity(original.len() + resources.len() + 8);
        out.put_slice(original);
        message(field::UPDATE_LINUX, &resources, &mut out);
        out.freeze()
    }
}

/// One field as it stands on the wire.
struct RawField {
    tag: u32,
    wire_type: WireType,
    /// Key and value.
    raw: Bytes,
}

impl RawField {
    fn next(bytes: &mut Bytes) -> Result<Option<Self>, Malformed> {
        if !bytes.has_remaining() {
            return Ok(None);
        }
        let start = bytes.clone();
        let (tag, wire_type) = decode_key(bytes)?;
        skip_field(wire_type, tag, bytes, DecodeContext::default())?;
        let raw = start.slice(..start.len() - bytes.len());
        Ok(Some(Self {
            tag,
            wire_type,
            raw,
        }))
    }

    /// The bytes of a length-delimited field.
    fn value(&self) -> Result<Bytes, Malformed> {
        let mut bytes = self.raw.clone();
        decode_key(&mut bytes)?;
        prost::encoding::decode_varint(&mut bytes)?;
        Ok(bytes)
    }
}

/// Copies a `CreateContainerRequest` without `config.command` and `config.args`.
fn cut_command(mut original: Bytes, out: &mut BytesMut) -> Result<(), Malformed> {
    while let Some(outer) = RawField::next(&mut original)? {
        if outer.tag != field::CREATE_CONFIG || outer.wire_type != WireType::LengthDelimited {
            out.put_slice(&outer.raw);
            continue;
        }
        let mut kept = BytesMut::with_capacity(outer.raw.len());
        let mut config = outer.value()?;
        while let Some(inner) = RawField::next(&mut config)? {
            if !matches!(inner.tag, field::CONFIG_COMMAND | field::CONFIG_ARGS) {
                kept.put_slice(&inner.raw);
            }
        }
        message(field::CREATE_CONFIG, &kept, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
