//! Finds the BPF object that `cargo xtask build-ebpf` made, so that it can be embedded, and makes the table of
//! CRI's messages (`src/cri/schema.rs`) of two .proto files: the one in the package of the dependency k8s-cri, and
//! ours of what is newer.
//!
//! Without the BPF object the build goes on: telemetry then says at run time what is missing. With the feature
//! `bench`, the object of `cargo xtask bench telemetry` is embedded beside it.

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

const OVERRIDE: &str = "CRI_RESMGR_EBPF_OBJECT";

/// What CRI has got since the .proto file of k8s-cri.
const NEWER: &str = "proto/cri-newer.proto";

fn main() -> Result<(), Box<dyn Error>> {
    embed_bpf_object()?;
    let cri = cri_file()?;
    println!("cargo::rerun-if-changed={}", cri.display());
    println!("cargo::rerun-if-changed={NEWER}");
    let folder = cri.parent().ok_or("the file of CRI is in no folder")?;
    let files = protox::compile([NEWER], [folder, Path::new("proto")])?;
    let pool = DescriptorPool::from_file_descriptor_set(files)?;
    fs::write(required("OUT_DIR")?.join("cri_schema.rs"), schema(&pool)?)?;
    Ok(())
}

fn required(name: &str) -> io::Result<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other(format!("no {name}")))
}

fn embed_bpf_object() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return Ok(());
    }
    let built = required("CARGO_MANIFEST_DIR")?.join("../target/bpf");
    let out = required("OUT_DIR")?;
    let object =
        env::var_os(OVERRIDE).map_or_else(|| built.join("cri-resmgr-ebpf.o"), PathBuf::from);
    let bytes = match read(&object) {
        Ok(bytes) => bytes,
        Err(error) if env::var_os(OVERRIDE).is_some() => {
            let why = format!("{OVERRIDE}={}: {error}", object.display());
            return Err(io::Error::new(error.kind(), why));
        }
        Err(_) => {
            println!(
                "cargo::warning=no BPF object: telemetry will be off. Run `cargo xtask build-ebpf`, \
                 or build with --no-default-features"
            );
            Vec::new()
        }
    };
    // For `--version`.
    if !bytes.is_empty() {
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect();
        println!("cargo::rustc-env=CRI_RESMGR_BPF_SHA256={digest}");
    }
    fs::write(out.join("cri-resmgr-ebpf.o"), bytes)?;
    if env::var_os("CARGO_FEATURE_BENCH").is_some() {
        let name = "cri-resmgr-ebpf-bench.o";
        // Only `cargo xtask bench telemetry` needs it, and builds it first.
        fs::write(out.join(name), read(&built.join(name)).unwrap_or_default())?;
    }
    Ok(())
}

fn read(object: &Path) -> io::Result<Vec<u8>> {
    println!("cargo::rerun-if-changed={}", object.display());
    fs::read(object)
}

/// The .proto file of CRI v1 in the package of k8s-cri, wherever cargo has put that.
fn cri_file() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = required("CARGO_MANIFEST_DIR")?.join("Cargo.toml");
    // For this platform alone: cargo has not fetched the packages of the others. Without `--offline`, for it may not have
    // fetched those of other members either; the network is asked for nothing that is here.
    let output = Command::new(required("CARGO")?)
        .args(["metadata", "--format-version=1", "--locked"])
        .arg("--filter-platform")
        .arg(required("TARGET")?)
        .arg("--manifest-path")
        .arg(&manifest)
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cannot find the package k8s-cri, {}: {said}", output.status).into());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    // Another version of k8s-cri is another file.
    let root = metadata["workspace_root"].as_str();
    let root = root.ok_or("cargo names no root of the workspace")?;
    println!("cargo::rerun-if-changed={root}/Cargo.lock");
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let k8s_cri = packages
        .filter(|package| package["name"] == "k8s-cri")
        .find_map(|package| package["manifest_path"].as_str())
        .ok_or_else(|| format!("k8s-cri is no dependency of {}", manifest.display()))?;
    let file = Path::new(k8s_cri).with_file_name("proto").join("v1.proto");
    if !file.is_file() {
        return Err(format!("k8s-cri has no file {}", file.display()).into());
    }
    Ok(file)
}

/// A static for each message, and `METHODS`, sorted by name. Messages of the same name are one.
fn schema(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut messages: BTreeMap<String, Vec<FieldDescriptor>> = BTreeMap::new();
    for message in pool.all_messages().filter(|m| !m.is_map_entry()) {
        let fields = messages.entry(message.name().to_owned()).or_default();
        fields.extend(message.fields());
    }
    let mut out = String::new();
    for (name, fields) in messages {
        put_message(&mut out, &name, fields)?;
    }
    let mut methods = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            methods.push(format!(
                "    (\"{}/{}\", &{}, &{}),\n",
                service.name(),
                method.name(),
                method.input().name(),
                method.output().name()
            ));
        }
    }
    methods.sort();
    writeln!(
        out,
        "pub(super) static METHODS: &[(&str, &MessageType, &MessageType)] = &[\n{}];",
        methods.concat()
    )?;
    Ok(out)
}

fn put_message(
    out: &mut String,
    name: &str,
    mut fields: Vec<FieldDescriptor>,
) -> Result<(), Box<dyn Error>> {
    fields.sort_by(|a, b| a.name().cmp(b.name()));
    let numbers = fields.iter().map(FieldDescriptor::number).max();
    let mut places = vec![u8::MAX; usize::try_from(numbers.map_or(0, |last| last + 1))?];
    writeln!(out, "static {name}: MessageType = MessageType {{")?;
    writeln!(out, "    fields: &[")?;
    for (place, field) in fields.iter().enumerate() {
        let slot = &mut places[usize::try_from(field.number())?];
        if *slot != u8::MAX {
            let number = field.number();
            return Err(
                format!("k8s-cri has field {number} of {name}: delete it in {NEWER}").into(),
            );
        }
        *slot = u8::try_from(place)?;
        put_field(out, field)?;
    }
    writeln!(out, "    ],\n    places: &{places:?},\n}};")?;
    Ok(())
}

fn put_field(out: &mut String, field: &FieldDescriptor) -> Result<(), Box<dyn Error>> {
    let kind = match field.kind() {
        _ if field.is_map() => "Map".to_owned(),
        Kind::String => "Text".to_owned(),
        Kind::Bytes => "Bytes".to_owned(),
        Kind::Bool => "Bool".to_owned(),
        Kind::Int32 | Kind::Enum(_) => "Int32".to_owned(),
        Kind::Int64 => "Int64".to_owned(),
        Kind::Uint32 => "Uint32".to_owned(),
        Kind::Uint64 => "Uint64".to_owned(),
        Kind::Double => "Double".to_owned(),
        Kind::Message(below) => format!("Message(&{})", below.name()),
        unknown => {
            let name = field.full_name();
            return Err(format!("{name} is of type {unknown:?}, which no field of CRI had").into());
        }
    };
    writeln!(
        out,
        "        MessageField {{ name: \"{}\", kind: FieldKind::{kind}, repeated: {} }},",
        field.name(),
        field.is_list()
    )?;
    Ok(())
}
