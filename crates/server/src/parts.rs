//! Object stores, as options describe them: for parts, checkpoints, backups.

use crate::options::RemoteParts;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use std::sync::Arc;
use url::Url;
use weir_engine::CheckpointsLocation;
use weir_storage::PartsLocation;

/// # Errors
/// One line: a URL that is none, a key that is not in the environment.
pub fn location(
    parts: Option<&RemoteParts>,
    runtime: tokio::runtime::Handle,
) -> Result<PartsLocation, String> {
    let Some(parts) = parts else { return Ok(PartsLocation::Local) };
    let (store, prefix) = open(parts, "parts_url")?;
    Ok(PartsLocation::Remote { store, prefix, runtime })
}

/// Where checkpoints go; `runtime` must have threads that nobody blocks.
///
/// # Errors
/// As [`location`].
pub fn checkpoints(
    remote: Option<&RemoteParts>,
    runtime: &tokio::runtime::Handle,
) -> Result<CheckpointsLocation, String> {
    let Some(remote) = remote else { return Ok(CheckpointsLocation::Local) };
    let (store, prefix) = open(remote, "checkpoints_url")?;
    Ok(CheckpointsLocation::Remote { store, prefix, runtime: runtime.clone() })
}

/// An object store, and the prefix in it; `what` names the setting in messages.
///
/// # Errors
/// As [`location`].
pub fn open(parts: &RemoteParts, what: &str) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let (bucket, prefix) = bucket_and_prefix(&parts.url, what)?;
    let key = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("{what} needs a key in the environment variable {name}, which is not set"))
    };
    let mut s3 = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&parts.region)
        .with_access_key_id(key(&parts.key_env)?)
        .with_secret_access_key(key(&parts.secret_env)?);
    if let Some(endpoint) = &parts.endpoint {
        s3 = s3.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let store = s3.build().map_err(|e| format!("{what} {} can not be used: {e}", parts.url))?;
    Ok((Arc::new(store), prefix))
}

fn bucket_and_prefix(url: &str, what: &str) -> Result<(String, Path), String> {
    let bad = |why: &str| format!("{what} {url} {why}; write s3://BUCKET or s3://BUCKET/PREFIX");
    let parsed = Url::parse(url).map_err(|_| bad("is not a URL"))?;
    if parsed.scheme() != "s3" {
        return Err(bad("does not start with s3://"));
    }
    let bucket = parsed.host_str().filter(|b| !b.is_empty()).ok_or_else(|| bad("names no bucket"))?;
    let prefix = Path::from_url_path(parsed.path()).map_err(|_| bad("has a prefix that is no path"))?;
    Ok((bucket.to_owned(), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(bucket_and_prefix("s3://b/x/y", "parts_url").unwrap(), ("b".into(), Path::from("x/y")));
        assert_eq!(bucket_and_prefix("s3://b", "parts_url").unwrap(), ("b".into(), Path::from("")));
        for bad in ["b/x", "http://b/x", "s3://"] {
            assert!(bucket_and_prefix(bad, "parts_url").unwrap_err().contains("s3://BUCKET"), "{bad}");
        }
    }
}
