//! An archive of images (OCI image layout 1.1): one for each program, of all architectures, without a distribution below.
//!
//! ```text
//! index.json ─ a name and tag ▶ index ─ a platform ▶ manifest ─▶ configuration
//!                                                             ─▶ layer: the program, compressed
//! ```
//!
//! The documents are four small ones of JSON, written here; the crate oci-spec would bring forty others for them.

use super::{
    archive::{gzip, tar},
    release::{Architecture, PROGRAMS, Packed, Release, packed_programs, sha256},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::PathBuf,
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes `cri-resmgr-VERSION.oci.tar` of the static programs of each architecture, for `ctr images import` and
/// `skopeo copy oci-archive:…`.
pub(super) fn write(release: &Release, built: &[(Architecture, PathBuf)]) -> Result<()> {
    let mut programs = Vec::new();
    for (architecture, folder) in built {
        programs.push((architecture.name, packed_programs(folder)?));
    }
    fs::write(path(release), layout(release, &programs)?)?;
    Ok(())
}

/// Where the archive is.
pub(super) fn path(release: &Release) -> PathBuf {
    release.out.join(format!("{}.oci.tar", release.name()))
}

/// The archive of `programs`, which stand in the order of [`PROGRAMS`] for each architecture.
fn layout(release: &Release, programs: &[(&str, Vec<Packed>)]) -> Result<Vec<u8>> {
    let mut blobs = BTreeMap::new();
    let mut names = Vec::new();
    for (number, name) in PROGRAMS.into_iter().enumerate() {
        let mut platforms = Vec::new();
        for (architecture, packed) in programs {
            let mut program = packed[number].clone();
            name.clone_into(&mut program.path);
            let content = tar(&[program], release.epoch)?;
            let layer = add(&mut blobs, LAYER, gzip(&content)?);
            let config = json!({
                "architecture": architecture,
                "os": "linux",
                "config": {
                    "Entrypoint": [format!("/{name}")],
                    "Labels": {
                        "org.opencontainers.image.licenses": "Apache-2.0",
                        "org.opencontainers.image.revision": release.commit,
                        "org.opencontainers.image.version": release.version,
                    },
                },
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&content))]},
            });
            let config = add(&mut blobs, CONFIG, serde_json::to_vec(&config)?);
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": [layer],
            });
            let mut manifest = add(&mut blobs, MANIFEST, serde_json::to_vec(&manifest)?);
            manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
            platforms.push(manifest);
        }
        let index = add(&mut blobs, INDEX, serde_json::to_vec(&index(&platforms))?);
        for tag in [&release.version, "latest"] {
            let mut tagged = index.clone();
            tagged["annotations"] = json!({
                "io.containerd.image.name": format!("docker.io/library/{name}:{tag}"),
                "org.opencontainers.image.ref.name": format!("{name}:{tag}"),
            });
            names.push(tagged);
        }
    }
    let file = |path: String, content| Packed {
        path,
        content,
        program: false,
    };
    let mut files = vec![
        file(
            "oci-layout".into(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        file("index.json".into(), serde_json::to_vec(&index(&names))?),
    ];
    for (digest, content) in blobs {
        files.push(file(format!("blobs/sha256/{digest}"), content));
    }
    tar(&files, release.epoch)
}

fn index(manifests: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
}

/// Keeps a blob; its descriptor.
fn add(blobs: &mut BTreeMap<String, Vec<u8>>, media_type: &str, content: Vec<u8>) -> Value {
    let digest = sha256(&content);
    let descriptor = json!({
        "mediaType": media_type,
        "digest": format!("sha256:{digest}"),
        "size": content.len(),
    });
    blobs.insert(digest, content);
    descriptor
}

/// Follows every descriptor of an archive to its blob. The architectures of each `NAME:TAG`.
///
/// # Errors
/// When a blob is missing, is not of the size and digest that its descriptor says, or is led to by none.
pub(super) fn verify(archive: &[u8]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if entry.header().entry_type().is_file() {
            files.insert(entry.path()?.display().to_string(), content);
        }
    }
    let mut used = BTreeSet::from(["index.json".to_owned(), "oci-layout".to_owned()]);
    let mut blob = |descriptor: &Value| {
        let digest = text(&descriptor["digest"])?;
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let content = files
            .get(&path)
            .with_context(|| format!("no blob {path}"))?;
        ensure!(
            descriptor["size"] == content.len() && digest == format!("sha256:{}", sha256(content)),
            "{path} is not what its descriptor says"
        );
        used.insert(path);
        Ok(content)
    };
    let mut images = BTreeMap::new();
    let top: Value = serde_json::from_slice(files.get("index.json").context("no index.json")?)?;
    for named in list(&top["manifests"])? {
        let index: Value = serde_json::from_slice(blob(named)?)?;
        let mut architectures = Vec::new();
        for platform in list(&index["manifests"])? {
            let manifest: Value = serde_json::from_slice(blob(platform)?)?;
            let config: Value = serde_json::from_slice(blob(&manifest["config"])?)?;
            let layers = list(&manifest["layers"])?;
            let identifiers = list(&config["rootfs"]["diff_ids"])?;
            ensure!(
                layers.len() == identifiers.len(),
                "{manifest}: not as many layers as in its configuration"
            );
            for layer in layers {
                blob(layer)?;
            }
            let architecture = text(&config["architecture"])?;
            ensure!(
                platform["platform"]["architecture"] == architecture,
                "{platform}: its configuration is for {architecture}"
            );
            architectures.push(architecture.to_owned());
        }
        let name = text(&named["annotations"]["org.opencontainers.image.ref.name"])?;
        images.insert(name.to_owned(), architectures);
    }
    let unused = files.keys().find(|path| !used.contains(*path));
    ensure!(unused.is_none(), "no descriptor leads to {unused:?}");
    Ok(images)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("a text is missing in a document")
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().context("a list is missing in a document")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let release = Release {
            version: "1.2.3".to_owned(),
            commit: "c0ffee".to_owned(),
            epoch: 1_700_000_000,
            out: "/nonexistent".into(),
        };
        let programs = ["amd64", "arm64"].map(|architecture| {
            let packed = PROGRAMS.map(|name| Packed {
                path: format!("bin/{name}"),
                content: format!("{name} {architecture}").into_bytes(),
                program: true,
            });
            (architecture, packed.to_vec())
        });
        layout(&release, &programs).unwrap()
    }

    #[test]
    fn every_descriptor_of_an_archive_leads_to_its_blob() {
        let archive = archive();
        assert_eq!(archive, self::archive());
        let images = verify(&archive).unwrap();
        assert_eq!(images.len(), 6);
        for program in PROGRAMS {
            for tag in ["1.2.3", "latest"] {
                assert_eq!(images[&format!("{program}:{tag}")], ["amd64", "arm64"]);
            }
        }
    }

    #[test]
    fn a_blob_that_was_changed_is_noticed() {
        let mut archive = archive();
        let layer = [0x1f, 0x8b, 8];
        let place = archive
            .windows(layer.len())
            .position(|octets| octets == layer)
            .unwrap();
        archive[place + 12] ^= 1;
        let error = verify(&archive).unwrap_err().to_string();
        assert!(error.contains("not what its descriptor says"), "{error}");
    }
}
