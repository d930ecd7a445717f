//! The archive: a tar file, compressed by gzip, with an index of what is in it.

use super::{file::ArchiveFile, names::Names};
use crate::cli::help;
use flate2::{Compression, write::GzEncoder};
use resmgr_io::file::create_output;
use std::{
    fmt::Write as _,
    fs,
    io::{self, BufWriter},
    path::Path,
};
use tar::{Builder, Header};

/// What the files may hold before they are compressed, octets. A file that would be beyond it is left out.
const MAX_BYTES: usize = 64 << 20;

/// Files in a folder, to be written.
pub(super) struct Archive {
    folder: String,
    entries: Vec<(String, Vec<u8>)>,
    missing: usize,
}

/// What was written.
#[derive(Debug)]
pub(super) struct ArchiveSize {
    /// How large the archive is, octets.
    pub(super) bytes: u64,
    /// Files in it.
    pub(super) files: usize,
    /// Files that are not in it, of which the index says why.
    pub(super) missing: usize,
}

impl Archive {
    /// These files in `folder`, with an index of them; names are kept or replaced.
    pub(super) fn new(folder: &str, files: &[ArchiveFile], names: &Names) -> Self {
        Self::bounded(folder, files, names, MAX_BYTES)
    }

    fn bounded(folder: &str, files: &[ArchiveFile], names: &Names, max_bytes: usize) -> Self {
        let mut index = format!(
            "What explains the placements of a node, as `cri-resmgr gather` found it. Environment values (but STP_* and\n\
             CMK_*), credentials, annotations that are not known to be harmless and what commands print are left out or\n\
             `(hidden)`. {}\n\n{}\n",
            names.note(),
            help::version(),
        );
        let mut line = |text: String| writeln!(index, "{text}").expect("a String takes all");
        let mut entries = Vec::new();
        let (mut missing, mut bytes) = (0, 0);
        for file in files {
            let rendered = file.content.as_ref().map_err(Clone::clone);
            let rendered = rendered
                .map(|content| names.render(content))
                .and_then(|octets| {
                    if bytes + octets.len() > max_bytes {
                        let (size, most) = (octets.len(), max_bytes >> 20);
                        return Err(format!(
                            "its {size} octets are beyond the {most} MiB of all files"
                        ));
                    }
                    Ok(octets)
                });
            let name = names.replace(&file.name);
            line(format!("{name}: {}", names.replace(&file.purpose)));
            line(format!("    from: {}", names.replace(&file.origin)));
            match rendered {
                Ok(octets) => {
                    bytes += octets.len();
                    entries.push((name, octets));
                }
                Err(why) => {
                    line(format!("    MISSING: {}", names.replace(&why)));
                    missing += 1;
                }
            }
        }
        entries.insert(0, ("index.txt".to_owned(), index.into_bytes()));
        Self {
            folder: folder.to_owned(),
            entries,
            missing,
        }
    }

    /// Writes the archive, mode 0600, whole or not at all.
    ///
    /// # Errors
    /// When there is such a file already, or it cannot be written.
    pub(super) fn write(&self, path: &Path) -> io::Result<ArchiveSize> {
        let file = create_output(path)?;
        let bytes = self.write_to(file).inspect_err(|_| {
            // What is unfinished is of no use. Why it was not finished is what the caller hears.
            drop(fs::remove_file(path));
        })?;
        Ok(ArchiveSize {
            bytes,
            files: self.entries.len(),
            missing: self.missing,
        })
    }

    fn write_to(&self, file: fs::File) -> io::Result<u64> {
        let packed = GzEncoder::new(BufWriter::new(file), Compression::default());
        let mut archive = Builder::new(packed);
        let now = jiff::Timestamp::now().as_second();
        for (name, content) in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(now).unwrap_or_default());
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, format!("{}/{name}", self.folder), &content[..])?;
        }
        let written = archive.into_inner()?.finish()?;
        let file = written.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::file::FileContent, *};
    use flate2::read::GzDecoder;
    use std::{io::Read as _, os::unix::fs::MetadataExt as _};

    fn text(name: &str, text: &str) -> ArchiveFile {
        ArchiveFile::new(
            name,
            "a test",
            "this test",
            Ok(FileContent::Text(text.into())),
        )
    }

    #[test]
    fn what_is_gathered_is_unpacked_again_with_an_index_of_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.tar.gz");
        let gone = ArchiveFile::new("gone.json", "a test", "no daemon", Err("away".into()));
        let files = [
            text("small.txt", "kept"),
            gone,
            text("large.txt", &"x".repeat(100)),
        ];
        let written = Archive::bounded("node", &files, &Names::kept(), 50)
            .write(&path)
            .unwrap();
        assert_eq!((written.files, written.missing), (2, 2));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(&path).unwrap()));
        let mut unpacked = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            unpacked.push((entry.path().unwrap().display().to_string(), content));
        }
        assert_eq!(unpacked[0].0, "node/index.txt");
        assert!(
            unpacked[0]
                .1
                .contains("gone.json: a test\n    from: no daemon\n    MISSING: away\n")
        );
        assert!(unpacked[0].1.contains("its 100 octets are beyond"));
        assert_eq!(unpacked[1], ("node/small.txt".into(), "kept".into()));
    }

    #[test]
    fn a_file_that_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.tar.gz");
        fs::write(&path, "precious").unwrap();
        let error = Archive::new("node", &[], &Names::kept())
            .write(&path)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
