//! Where files lie: below directories that are allowed, or in a bucket.

use crate::settings::bad;
use bytes::Bytes;
use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::path::{Component, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use weir_base::Code;
use weir_plan::StreamError;

/// Files of one table at most.
pub(super) const FILES_MAX: usize = 100_000;

/// Directories below which files may be read and written. Relative paths begin at the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedPaths {
    roots: Vec<PathBuf>,
}

impl FromStr for AllowedPaths {
    type Err = String;

    /// `'/srv/data, /var/exports'`; nothing forbids all.
    fn from_str(text: &str) -> Result<Self, String> {
        let roots: Vec<PathBuf> =
            text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(PathBuf::from).collect();
        match roots.iter().find(|p| !p.is_absolute()) {
            Some(wrong) => Err(format!("{} is no absolute path", wrong.display())),
            None => Ok(AllowedPaths { roots }),
        }
    }
}

impl AllowedPaths {
    /// One directory, which need not be there.
    pub fn only(root: PathBuf) -> Self {
        AllowedPaths { roots: vec![root] }
    }

    /// The root that `path` lies below, and where below it.
    fn place(&self, path: &str) -> Result<(PathBuf, String), StreamError> {
        let denied = |why: String| StreamError { code: Code::AccessDenied, message: why };
        let Some(first) = self.roots.first() else {
            return Err(denied(
                "this server reads and writes no files: --allowed-paths names no directory".into(),
            ));
        };
        let asked = PathBuf::from(path);
        if asked.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(denied(format!("{path}: '..' is not taken; name the directory itself")));
        }
        let whole = if asked.is_absolute() { asked } else { first.join(asked) };
        for root in &self.roots {
            if let Ok(below) = whole.strip_prefix(root) {
                return Ok((root.clone(), below.to_string_lossy().into_owned()));
            }
        }
        let roots: Vec<String> = self.roots.iter().map(|r| r.display().to_string()).collect();
        Err(denied(format!(
            "{} lies below none of the directories of --allowed-paths ({})",
            whole.display(),
            roots.join(", ")
        )))
    }
}

/// A store, and what of it is meant.
#[derive(Debug, Clone)]
pub(super) struct Place {
    store: Arc<dyn ObjectStore>,
    /// Of a local place: where its store begins.
    local: Option<(Arc<LocalFileSystem>, PathBuf)>,
    /// A pattern of files, or where new ones go.
    pub below: String,
    /// As it was asked for, for messages.
    pub shown: String,
}

impl Place {
    /// # Errors
    /// 497 for what is not allowed; 36 for a directory that is not there and can not be made.
    pub fn local(paths: &AllowedPaths, path: &str) -> Result<Self, StreamError> {
        let (root, below) = paths.place(path)?;
        make_dir(&root)?;
        let root = root.canonicalize().map_err(|e| bad(format!("{}: {e}", root.display())))?;
        let store =
            LocalFileSystem::new_with_prefix(&root).map_err(|e| bad(format!("{}: {e}", root.display())))?;
        let store = Arc::new(store.with_automatic_cleanup(false));
        Ok(Place { store: store.clone(), local: Some((store, root)), below, shown: path.to_owned() })
    }

    pub fn remote(store: Arc<dyn ObjectStore>, bucket: &str, path: &str) -> Self {
        let below = path.trim_start_matches('/').to_owned();
        Place { store, local: None, shown: format!("s3://{bucket}/{below}"), below }
    }

    fn failed(&self, what: &str, e: &object_store::Error) -> StreamError {
        let code = match e {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Code::AccessDenied
            }
            object_store::Error::NotFound { .. } => Code::BadArguments,
            _ if self.local.is_some() => Code::IoError,
            _ => Code::NetworkError,
        };
        StreamError { code, message: format!("could not {what} {}: {e}", self.shown) }
    }

    /// The files that the pattern means, by name.
    ///
    /// # Errors
    /// Whatever keeps it from finding out; 497 for a link that leads out of what is allowed.
    pub async fn list(&self) -> Result<Vec<ObjectMeta>, StreamError> {
        let pattern =
            Pattern::new(&self.below).map_err(|e| bad(format!("read_from '{}': {e}", self.shown)))?;
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
        // What comes before the first wildcard, by whole directories.
        let fixed = self.below.find(['*', '?', '[']).map_or(self.below.as_str(), |at| &self.below[..at]);
        let dir = if fixed.len() == self.below.len() {
            let path = Path::from(self.below.as_str());
            return match self.store.head(&path).await {
                Ok(meta) => self.inside(vec![meta]),
                Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
                Err(e) => Err(self.failed("look for", &e)),
            };
        } else {
            fixed.rsplit_once('/').map_or("", |(dir, _)| dir)
        };
        let prefix = (!dir.is_empty()).then(|| Path::from(dir));
        let mut found = Vec::new();
        let mut listed = self.store.list(prefix.as_ref());
        while let Some(meta) = listed.try_next().await.map_err(|e| self.failed("list", &e))? {
            if !pattern.matches_with(meta.location.as_ref(), options) {
                continue;
            }
            if found.len() == FILES_MAX {
                return Err(bad(format!(
                    "{} means more than {FILES_MAX} files; make several tables",
                    self.shown
                )));
            }
            found.push(meta);
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        self.inside(found)
    }

    /// The same, unless a link leads out of the directory.
    fn inside(&self, files: Vec<ObjectMeta>) -> Result<Vec<ObjectMeta>, StreamError> {
        files.iter().try_for_each(|file| self.stays_inside(&file.location))?;
        Ok(files)
    }

    /// Of a file that is not there the directory that it would lie in.
    fn stays_inside(&self, file: &Path) -> Result<(), StreamError> {
        let Some((local, root)) = &self.local else { return Ok(()) };
        let path = local.path_to_filesystem(file).map_err(|e| self.failed("look for", &e))?;
        let there = path.ancestors().find(|at| at.symlink_metadata().is_ok()).unwrap_or(root);
        let real = there.canonicalize().map_err(|e| bad(format!("{}: {e}", there.display())))?;
        if real.starts_with(root) {
            return Ok(());
        }
        let message = format!("{} is a link that leads out of {}", there.display(), root.display());
        Err(StreamError { code: Code::AccessDenied, message })
    }

    pub async fn range(&self, file: &Path, range: std::ops::Range<u64>) -> Result<Bytes, StreamError> {
        self.store.get_range(file, range).await.map_err(|e| self.failed("read", &e))
    }

    /// The file from its beginning, in pieces.
    pub async fn pieces(
        &self,
        file: &Path,
    ) -> Result<impl futures::Stream<Item = Result<Bytes, StreamError>> + Send + Unpin + use<>, StreamError>
    {
        let got = self.store.get(file).await.map_err(|e| self.failed("read", &e))?;
        let this = self.clone();
        Ok(got.into_stream().map_err(move |e| this.failed("read", &e)))
    }

    /// Writes a file that was not there: whole and durable when it returns.
    pub async fn put(&self, file: &Path, bytes: Bytes) -> Result<(), StreamError> {
        self.stays_inside(file)?;
        // A server that does not know conditions has other names all the same.
        let mode = if self.local.is_some() { PutMode::Create } else { PutMode::Overwrite };
        let options = PutOptions { mode, ..PutOptions::default() };
        self.store.put_opts(file, bytes.into(), options).await.map_err(|e| self.failed("write to", &e))?;
        let Some((local, _)) = &self.local else { return Ok(()) };
        let path = local.path_to_filesystem(file).map_err(|e| self.failed("write to", &e))?;
        let synced = tokio::task::spawn_blocking(move || sync(&path)).await;
        let failed = |e: String| StreamError {
            code: Code::IoError,
            message: format!("could not sync {}: {e}", self.shown),
        };
        synced.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }
}

#[allow(clippy::disallowed_methods, reason = "files outside of the data directory, which no handle reaches")]
fn make_dir(root: &std::path::Path) -> Result<(), StreamError> {
    std::fs::create_dir_all(root).map_err(|e| bad(format!("could not make {}: {e}", root.display())))
}

/// The file, then the directories that were made for it.
#[allow(clippy::disallowed_methods, reason = "files outside of the data directory, which no handle reaches")]
fn sync(path: &std::path::Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    for dir in path.ancestors().skip(1).take(4) {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lie_below_a_root_or_are_refused() {
        let two: AllowedPaths = "/srv/data, /var/exports".parse().unwrap();
        // (path, where it lies)
        for (path, place) in [
            ("a/*.csv", Some(("/srv/data", "a/*.csv"))),
            ("/var/exports/x.parquet", Some(("/var/exports", "x.parquet"))),
            ("/srv/data2/x", None),
            ("/etc/passwd", None),
            ("../x", None),
            ("a/../../x", None),
        ] {
            match place {
                Some((root, below)) => {
                    assert_eq!(two.place(path).unwrap(), (PathBuf::from(root), below.into()))
                }
                None => assert_eq!(two.place(path).unwrap_err().code, Code::AccessDenied, "{path}"),
            }
        }
        assert!("data".parse::<AllowedPaths>().is_err());
        assert!("".parse::<AllowedPaths>().unwrap().place("x").is_err());
    }
}
