//! Parts in S3 or a server that speaks its protocol.

use crate::context::PartsLocation;
use crate::error::{Result, StorageError};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use std::fmt;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Where and as whom. Without keys the environment's credentials are used as AWS tools do.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// Below which all parts lie; empty for the bucket's root.
    pub prefix: String,
    /// For servers other than AWS, for example `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    pub session_token: Option<String>,
    /// Without it only https is spoken.
    pub allow_http: bool,
    /// `bucket.host` instead of `host/bucket`.
    pub virtual_hosted: bool,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl S3Config {
    /// Connects nothing yet; calls run on `runtime`.
    ///
    /// # Errors
    /// If the settings contradict each other.
    pub fn location(&self, runtime: Handle) -> Result<PartsLocation> {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_allow_http(self.allow_http)
            .with_virtual_hosted_style_request(self.virtual_hosted);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(key) = &self.access_key_id {
            builder = builder.with_access_key_id(key);
        }
        if let Some(secret) = &self.secret_access_key {
            builder = builder.with_secret_access_key(secret);
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token);
        }
        let store = builder.build().map_err(|e| StorageError::object("configure", &self.bucket, e))?;
        Ok(PartsLocation::Remote {
            store: Arc::new(store),
            prefix: Path::from(self.prefix.as_str()),
            runtime,
        })
    }
}

#[cfg(test)]
mod tests;
