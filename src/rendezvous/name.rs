//! Names of engines, and the sockets that they refer to.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::ShmError;

/// The longest relative name in bytes.
const MAX_NAME: usize = 100;
/// The longest name of a file in bytes (`NAME_MAX`).
const MAX_FILE: usize = 255;
/// Is appended to a relative name.
const SUFFIX: &str = ".sock";

/// The file that is locked while a name in its directory is taken over or given up.
pub(super) const LOCK_FILE: &str = ".lock";
/// The name under which a socket is prepared before it is renamed; only the holder of the lock has
/// one.
pub(super) const NEW_FILE: &str = ".wakering-new";

/// A name that was checked, and the socket that it refers to.
///
/// | name | directory | file |
/// |---|---|---|
/// | `video` | `$WAKERING_DIR`, else `$XDG_RUNTIME_DIR/wakering`, else `/run/wakering` for root or `/tmp/wakering-<uid>` | `video.sock` |
/// | `/srv/media/video` | `/srv/media` | `video` |
///
/// An empty variable counts as unset. A relative path in a variable is an error, because the engine
/// and the application would otherwise end up in different places without notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    directory: PathBuf,
    file: OsString,
    path: Box<Path>,
    relative: bool,
}

impl Name {
    /// Checks `name` and resolves it with the environment of this process.
    ///
    /// # Errors
    /// `InvalidName` for a form that is not allowed, `Io` for a directory from the environment that
    /// is not absolute.
    pub(crate) fn new(name: &str) -> Result<Self, ShmError> {
        Self::resolve(name, &Places::of_process())
    }

    /// Like [`Name::new`], with places that the caller chose.
    pub(super) fn resolve(name: &str, places: &Places) -> Result<Self, ShmError> {
        if name.starts_with('/') {
            return Self::absolute(name);
        }
        if !is_relative_name(name) {
            return Err(ShmError::InvalidName);
        }
        let directory = places.directory()?;
        let file = OsString::from(format!("{name}{SUFFIX}"));
        let path = directory.join(&file).into();
        Ok(Self { directory, file, path, relative: true })
    }

    /// Resolves a name with a leading slash, which is the socket's own path.
    fn absolute(name: &str) -> Result<Self, ShmError> {
        let (directory, file) = name.rsplit_once('/').ok_or(ShmError::InvalidName)?;
        // The last two are ours in every directory with sockets.
        let reserved = ["", ".", "..", LOCK_FILE, NEW_FILE];
        if name.contains('\0') || reserved.contains(&file) || file.len() > MAX_FILE {
            return Err(ShmError::InvalidName);
        }
        Ok(Self {
            directory: plain(Path::new(if directory.is_empty() { "/" } else { directory })),
            file: file.into(),
            path: Path::new(name).into(),
            relative: false,
        })
    }

    /// Returns the directory, without a trailing slash or dot: with one, the kernel would follow a
    /// link even if it was told not to.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the library manages the directory itself, and creates it if it is missing.
    pub(super) fn is_relative(&self) -> bool {
        self.relative
    }

    /// Returns the socket's name within its directory.
    pub(super) fn file(&self) -> &OsStr {
        &self.file
    }

    /// Returns the whole path, as errors show it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what tools call its channels: the name, or the last part of the path.
    pub(crate) fn label(&self) -> Option<&str> {
        let file = self.file.to_str()?;
        Some(file.strip_suffix(SUFFIX).unwrap_or(file))
    }

    /// Returns the error for a name at which nobody listens.
    pub(super) fn not_found(&self) -> ShmError {
        ShmError::NotFound { path: self.path.clone() }
    }

    /// Returns the error for a name that another engine uses.
    pub(super) fn in_use(&self) -> ShmError {
        ShmError::NameInUse { path: self.path.clone() }
    }
}

fn is_relative_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Returns `path` without doubled or trailing slashes and single dots.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// What decides where relative names live. A value, so that tests need not change the environment,
/// which all threads share.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// `$WAKERING_DIR`.
    pub(super) wakering: Option<OsString>,
    /// `$XDG_RUNTIME_DIR`.
    pub(super) runtime: Option<OsString>,
    /// The effective user.
    pub(super) uid: u32,
}

impl Places {
    fn of_process() -> Self {
        Self {
            wakering: std::env::var_os("WAKERING_DIR"),
            runtime: std::env::var_os("XDG_RUNTIME_DIR"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    fn directory(&self) -> Result<PathBuf, ShmError> {
        if let Some(directory) = set(&self.wakering) {
            return absolute("reading WAKERING_DIR", directory);
        }
        if let Some(directory) = set(&self.runtime) {
            return Ok(absolute("reading XDG_RUNTIME_DIR", directory)?.join("wakering"));
        }
        Ok(match self.uid {
            0 => PathBuf::from("/run/wakering"),
            uid => PathBuf::from(format!("/tmp/wakering-{uid}")),
        })
    }
}

/// Treats an empty variable as unset: a shell often leaves one where it was meant to be unset.
fn set(variable: &Option<OsString>) -> Option<&Path> {
    variable.as_deref().filter(|value| !value.is_empty()).map(Path::new)
}

fn absolute(step: &'static str, path: &Path) -> Result<PathBuf, ShmError> {
    if path.is_absolute() {
        return Ok(plain(path));
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path");
    Err(ShmError::io_at(step, path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(wakering: Option<&str>, runtime: Option<&str>, uid: u32) -> Places {
        Places { wakering: wakering.map(Into::into), runtime: runtime.map(Into::into), uid }
    }

    fn path_in(places: &Places) -> PathBuf {
        Name::resolve("a", places).unwrap().path().into()
    }

    #[test]
    fn relative_names_are_short_and_plain() {
        let longest = "x".repeat(100);
        for good in ["a", "A-9_z.b", "9", "-", "_", "a..b", longest.as_str()] {
            assert!(Name::resolve(good, &Places::default()).is_ok(), "{good}");
        }
        let too_long = "x".repeat(101);
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", "a\n", "~", too_long.as_str()] {
            let result = Name::resolve(bad, &Places::default());
            assert!(matches!(result, Err(ShmError::InvalidName)), "{bad:?}");
        }
    }

    #[test]
    fn an_absolute_name_is_the_path_itself() {
        let name = Name::new("/srv//media/./video").unwrap();
        assert_eq!(name.path(), Path::new("/srv//media/./video"));
        assert_eq!(name.directory().as_os_str(), "/srv/media");
        assert_eq!(name.file(), "video");
        assert!(!name.is_relative());
        assert_eq!(Name::new("/top").unwrap().directory().as_os_str(), "/");
        let longest = format!("/a/{}", "x".repeat(255));
        assert!(Name::new(&longest).is_ok());
        let too_long = format!("{longest}x");
        let odd = ["/", "//", "/a/", "/a/.", "/a/..", "/a\0b", "/a/.lock", "/a/.wakering-new"];
        for bad in odd.into_iter().chain([too_long.as_str()]) {
            assert!(matches!(Name::new(bad), Err(ShmError::InvalidName)), "{bad:?}");
        }
    }

    #[test]
    fn the_first_place_that_is_set_wins() {
        assert_eq!(path_in(&places(Some("/w/"), Some("/x"), 7)), Path::new("/w/a.sock"));
        assert_eq!(path_in(&places(None, Some("/x"), 7)), Path::new("/x/wakering/a.sock"));
        assert_eq!(path_in(&places(Some(""), Some(""), 7)), Path::new("/tmp/wakering-7/a.sock"));
        assert_eq!(path_in(&places(None, None, 0)), Path::new("/run/wakering/a.sock"));
    }

    #[test]
    fn a_trailing_slash_does_not_hide_a_link() {
        let name = Name::resolve("a", &places(Some("/w/link/."), None, 0)).unwrap();
        assert_eq!(name.directory().as_os_str(), "/w/link");
    }

    #[test]
    fn a_relative_place_is_an_error() {
        for places in [places(Some("w"), None, 0), places(None, Some("./x"), 0)] {
            let result = Name::resolve("a", &places);
            assert!(matches!(result, Err(ShmError::Io { .. })), "{result:?}");
        }
    }
}
