//! Files that a user named, where other users may have been first.

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::geteuid,
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Mode of a file that is written: what is dumped and recorded is for our own user.
const MODE: u32 = 0o600;

/// Mode bits with which users other than the owner can write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Opens a file to append to, mode 0600 even when it was there before; a regular file is emptied if `empty`.
///
/// The file is made, or it is a regular file, a pipe that is read, or a character device, and belongs to our own
/// user or to root. In a directory where other users can write, no symbolic link is followed, and nowhere a second
/// name of a file: both may lead to a file that no user named. Never waits for a reader.
///
/// # Errors
/// When it is none of these, or cannot be opened.
pub fn open_output(path: &Path, empty: bool) -> io::Result<File> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    if check_directory(directory.unwrap_or(Path::new("."))).is_err() {
        flags |= OFlag::O_NOFOLLOW;
    }
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(flags.bits())
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ELOOP) => {
            refused("it is a symbolic link where other users can write: not followed".to_owned())
        }
        Some(nix::libc::ENXIO) => refused("it is a pipe without a reader, or a socket".to_owned()),
        _ => error,
    })?;
    let found = file.metadata()?;
    let kind = found.file_type();
    if !(kind.is_file() || kind.is_fifo() || kind.is_char_device()) {
        return Err(refused("it is neither a file nor a pipe".to_owned()));
    }
    ours(found.uid())?;
    if kind.is_file() {
        if found.nlink() > 1 {
            return Err(refused("the file has a second name (hard link)".to_owned()));
        }
        file.set_permissions(Permissions::from_mode(MODE))?;
        if empty {
            file.set_len(0)?;
        }
    } else {
        // A thread of its own writes, which may wait.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    }
    Ok(file)
}

/// Makes a file to be written, mode 0600. What is there already, a symbolic link too, is neither opened nor followed.
///
/// # Errors
/// When there is something of this name, or no file can be made.
pub fn create_output(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// Checks that what is kept in a directory can be trusted: it belongs to our own user or to root, and no other
/// user can write in it. A directory that does not exist is as good.
///
/// # Errors
/// When it is otherwise, or cannot be looked at.
pub fn check_directory(path: &Path) -> io::Result<()> {
    let link = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    ours(link.uid())?;
    let found = fs::metadata(path)?;
    if !found.is_dir() {
        return Err(refused("it is not a directory".to_owned()));
    }
    ours(found.uid())?;
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(refused(format!(
            "other users can write in it (mode {:04o}): chmod go-w",
            found.mode() & 0o7777
        )));
    }
    Ok(())
}

fn ours(owner: u32) -> io::Result<()> {
    let own = geteuid().as_raw();
    if owner == own || owner == 0 {
        return Ok(());
    }
    Err(refused(format!(
        "it belongs to user {owner}, not to ours ({own})"
    )))
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::stat::Mode, unistd};
    use std::{io::Write as _, os::unix::fs::symlink};

    fn why(path: &Path) -> String {
        open_output(path, true).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_made_emptied_or_appended_to_for_our_own_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        open_output(&path, true).unwrap().write_all(b"one").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        open_output(&path, false)
            .unwrap()
            .write_all(b"two")
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "onetwo");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        drop(open_output(&path, true).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn a_new_file_is_for_our_own_user_and_what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        create_output(&path).unwrap().write_all(b"kept").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        let link = folder.path().join("link");
        symlink(folder.path().join("none"), &link).unwrap();
        for taken in [&path, &link] {
            let error = create_output(taken).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }

    #[test]
    fn what_leads_to_another_file_is_refused_and_that_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (precious, link) = (folder.path().join("precious"), folder.path().join("link"));
        fs::write(&precious, "kept").unwrap();
        symlink(&precious, &link).unwrap();
        // Only our own user, or root, can have put it there.
        open_output(&link, false).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(why(&link).contains("symbolic link"), "{}", why(&link));
        let second = folder.path().join("second");
        fs::hard_link(&precious, &second).unwrap();
        assert!(why(&second).contains("second name"), "{}", why(&second));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    }

    #[test]
    fn a_pipe_is_written_when_it_is_read_and_waited_for_never() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(why(&path).contains("without a reader"), "{}", why(&path));
        let _reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        open_output(&path, true).unwrap();
        assert!(open_output(folder.path(), true).is_err());
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if !geteuid().is_root() {
            return; // Only root can give a file away.
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        fs::write(&path, "theirs").unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert!(
            why(&path).contains("belongs to user 12345"),
            "{}",
            why(&path)
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        std::os::unix::fs::chown(folder.path(), Some(12345), None).unwrap();
        let error = check_directory(folder.path()).unwrap_err().to_string();
        assert!(error.contains("belongs to user 12345"), "{error}");
    }

    #[test]
    fn a_directory_is_trusted_when_no_other_user_can_write_in_it() {
        let folder = tempfile::tempdir().unwrap();
        check_directory(folder.path()).unwrap();
        check_directory(&folder.path().join("none")).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        let error = check_directory(folder.path()).unwrap_err().to_string();
        assert!(error.contains("mode 1777"), "{error}");
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check_directory(&file).is_err());
    }
}
