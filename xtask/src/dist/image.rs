//! An archive of images (OCI image layout 1.1): one for each program, without a distribution below.
//!
//! The documents are three small ones of JSON, written here; the crate oci-spec would bring forty others for them.

use super::{
    archive::tar,
    release::{PROGRAMS, Packed, Release, packed_programs, sha256},
};
use anyhow::Result;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes `NAME.oci.tar`, for `ctr images import`, `podman load`, `skopeo copy oci-archive:…`.
pub(super) fn write(
    release: &Release,
    name: &str,
    architecture: &str,
    programs: &Path,
) -> Result<()> {
    let content = layout(release, architecture, packed_programs(programs)?)?;
    fs::write(release.out.join(format!("{name}.oci.tar")), content)?;
    Ok(())
}

fn layout(release: &Release, architecture: &str, programs: Vec<Packed>) -> Result<Vec<u8>> {
    let mut blobs = BTreeMap::new();
    let mut manifests = Vec::new();
    for (mut program, name) in programs.into_iter().zip(PROGRAMS) {
        name.clone_into(&mut program.path);
        let layer = add(&mut blobs, LAYER, tar(&[program], release.epoch)?);
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
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let config = add(&mut blobs, CONFIG, serde_json::to_vec(&config)?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
        });
        let manifest = add(&mut blobs, MANIFEST, serde_json::to_vec(&manifest)?);
        for tag in [&release.version, "latest"] {
            let mut tagged = manifest.clone();
            tagged["annotations"] = json!({
                "io.containerd.image.name": format!("docker.io/library/{name}:{tag}"),
                "org.opencontainers.image.ref.name": format!("{name}:{tag}"),
            });
            manifests.push(tagged);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
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
        file("index.json".into(), serde_json::to_vec(&index)?),
    ];
    for (digest, content) in blobs {
        files.push(file(format!("blobs/sha256/{digest}"), content));
    }
    tar(&files, release.epoch)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_of_an_archive_leads_to_its_blob() {
        let release = Release {
            version: "1.2.3".to_owned(),
            commit: "c0ffee".to_owned(),
            epoch: 1_700_000_000,
            out: "/nonexistent".into(),
        };
        let programs = PROGRAMS.map(|name| Packed {
            path: format!("bin/{name}"),
            content: name.into(),
            program: true,
        });
        let archive = layout(&release, "amd64", programs.to_vec()).unwrap();
        assert_eq!(
            archive,
            layout(&release, "amd64", programs.to_vec()).unwrap()
        );
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            files.insert(path, content);
        }
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"]
                .as_str()
                .unwrap()
                .replace("sha256:", "blobs/sha256/");
            let content = files[&digest].clone();
            assert_eq!(descriptor["size"], content.len());
            assert_eq!(digest, format!("blobs/sha256/{}", sha256(&content)));
            content
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 6);
        let first = &manifests[0]["annotations"]["io.containerd.image.name"];
        assert_eq!(first, "docker.io/library/cri-resmgr:1.2.3");
        for descriptor in manifests {
            let manifest: Value = serde_json::from_slice(&blob(descriptor)).unwrap();
            let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
            let layer = &manifest["layers"][0];
            assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
            blob(layer);
        }
    }
}
