//! Tar archives whose octets depend on their content alone.

use super::release::{Packed, Release, packed_file, packed_programs};
use crate::shell::{root, run};
use anyhow::Result;
use std::{fs, path::Path, process::Command};

/// A tar archive of the files, with their folders, all of root.
pub(super) fn tar(files: &[Packed], epoch: u64) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut folders = Vec::new();
    for file in sorted {
        let above: Vec<_> = Path::new(&file.path).ancestors().skip(1).collect();
        for folder in above.into_iter().rev() {
            if !folder.as_os_str().is_empty() && !folders.contains(&folder) {
                folders.push(folder);
                let mut header = header(0, 0o755, epoch);
                header.set_entry_type(tar::EntryType::Directory);
                archive.append_data(&mut header, folder, &[][..])?;
            }
        }
        let mut header = header(file.content.len().try_into()?, file.mode(), epoch);
        archive.append_data(&mut header, &file.path, &file.content[..])?;
    }
    Ok(archive.into_inner()?)
}

fn header(size: u64, mode: u32, epoch: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header
}

/// Programs, units, samples, manifests and documents in a folder `name`.
pub(super) fn tarball(
    release: &Release,
    name: &str,
    programs: &Path,
    texts: Option<&[Packed]>,
) -> Result<()> {
    let mut files = packed_programs(programs)?;
    files.extend(texts.unwrap_or_default().iter().cloned());
    for file in ["LICENSE", "CHANGELOG.md", "SECURITY.md", "README.md"] {
        files.push(packed_file(file, file)?);
    }
    for folder in [
        "deploy/chart",
        "deploy/chart/files",
        "deploy/chart/templates",
        "deploy/config",
        "deploy/kustomize/base",
        "deploy/kustomize/options",
        "deploy/kustomize/static",
        "deploy/kustomize/static-plus",
        "deploy/kustomize/static-pools",
        "deploy/systemd",
        "docs",
        "docs/images",
        "docs/notes",
    ] {
        for entry in fs::read_dir(root().join(folder))? {
            let entry = entry?;
            // The chart has links to files of deploy/monitoring.
            if entry.path().is_file() {
                let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
                files.push(packed_file(&path, &path)?);
            }
        }
    }
    for file in &mut files {
        file.path = format!("{name}/{}", file.path);
    }
    let path = release.out.join(format!("{name}.tar"));
    fs::write(&path, tar(&files, release.epoch)?)?;
    run(Command::new("gzip").args(["-n", "-9"]).arg(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Packed {
        Packed {
            path: path.to_owned(),
            content: path.into(),
            program: path.contains("bin"),
        }
    }

    #[test]
    fn an_archive_depends_on_its_content_alone_and_has_each_folder_once() {
        let files = [file("usr/bin/b"), file("usr/bin/a"), file("LICENSE")];
        let archive = tar(&files, 1_700_000_000).unwrap();
        let reversed: Vec<_> = files.iter().rev().cloned().collect();
        assert_eq!(archive, tar(&reversed, 1_700_000_000).unwrap());
        let mut read = tar::Archive::new(&archive[..]);
        let entries: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), 1_700_000_000);
                assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
                (
                    entry.path().unwrap().display().to_string(),
                    header.mode().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("LICENSE", 0o644),
            ("usr", 0o755),
            ("usr/bin", 0o755),
            ("usr/bin/a", 0o755),
            ("usr/bin/b", 0o755),
        ];
        assert_eq!(
            entries,
            expected.map(|(path, mode)| (path.to_owned(), mode))
        );
    }
}
