//! Tar archives whose octets depend on their content alone.

use super::release::{Packed, Release, packed_file, packed_programs};
use crate::shell::{output, root};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

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
    texts: &[Packed],
) -> Result<()> {
    let mut files = packed_programs(programs)?;
    files.extend(texts.iter().cloned());
    let pages = ["LICENSE", "CHANGELOG.md", "SECURITY.md", "README.md"];
    let mut git = Command::new("git");
    git.args(["ls-files", "deploy", "docs"]).args(pages);
    for file in output(git.current_dir(root()))?.lines() {
        files.push(packed_file(file, file)?);
    }
    for file in &mut files {
        file.path = format!("{name}/{}", file.path);
    }
    let content = gzip(&tar(&files, release.epoch)?)?;
    fs::write(release.out.join(format!("{name}.tar.gz")), content)?;
    Ok(())
}

/// Compressed, without name and time of a file.
pub(super) fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, content)?;
    let mut command = Command::new("gzip");
    let output = command
        .args(["-n", "-9", "-c"])
        .arg(file.path())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start gzip")?;
    ensure!(output.status.success(), "gzip: {}", output.status);
    Ok(output.stdout)
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
