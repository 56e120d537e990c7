//! SETTINGS of tables of files.

use super::FilesAccess;
use super::place::Place;
use crate::settings::{Settings, bad};
use object_store::aws::AmazonS3Builder;
use std::sync::Arc;
use weir_base::Code;
use weir_format::FormatInfo;
use weir_plan::{ExternalSpec, StreamError};

const LOCAL: &[&str] = &["type", "read_from", "write_to", "data_format", "partition_by"];
const S3: &[&str] = &[
    "type",
    "bucket",
    "region",
    "endpoint",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "read_from",
    "write_to",
    "data_format",
    "partition_by",
];

/// What a table was created with.
#[derive(Debug)]
pub(super) struct FileSettings {
    pub from: Option<Place>,
    pub to: Option<Place>,
    pub format: &'static FormatInfo,
    /// Columns that new files are told apart by, in their paths.
    pub partition_by: Vec<String>,
}

/// # Errors
/// 115 for an unknown setting, 36 for a bad value, 497 for a path that is not allowed.
pub(super) fn local(spec: &ExternalSpec, with: &FilesAccess) -> Result<FileSettings, StreamError> {
    let mut s = Settings::new("file", LOCAL, &spec.settings)?;
    let from = s.text("read_from").map(|path| Place::local(&with.paths, &path)).transpose()?;
    let to = s.text("write_to").map(|path| Place::local(&with.paths, &path)).transpose()?;
    rest(s, spec, from, to)
}

/// # Errors
/// The same.
pub(super) fn s3(spec: &ExternalSpec, with: &FilesAccess) -> Result<FileSettings, StreamError> {
    let mut s = Settings::new("s3", S3, &spec.settings)?;
    let bucket = s.needed("bucket", "my-bucket")?;
    let region = s.text("region").unwrap_or_else(|| "us-east-1".into());
    let (key, secret) = (s.text("access_key_id"), s.text("secret_access_key"));
    // Nothing of the environment goes with keys of others.
    let builder = if key.is_some() { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
    let mut builder = builder.with_bucket_name(&bucket).with_region(&region);
    match s.text("endpoint") {
        Some(url) => {
            let rest = url.split_once("://").map(|(_, rest)| rest);
            let rest =
                rest.ok_or_else(|| bad(format!("endpoint is '{url}', it must be http://host:port")))?;
            with.hosts.check_brokers(rest.split('/').next().unwrap_or(rest))?;
            builder = builder.with_allow_http(url.starts_with("http://")).with_endpoint(url);
        }
        None => with.hosts.check(&format!("s3.{region}.amazonaws.com"))?,
    }
    match (key, secret) {
        (Some(key), Some(secret)) => {
            builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        }
        (None, None) => {}
        _ => {
            return Err(bad(
                "access_key_id and secret_access_key go together; without both the environment's are used",
            ));
        }
    }
    if let Some(token) = s.text("session_token") {
        builder = builder.with_token(token);
    }
    let store = Arc::new(builder.build().map_err(|e| bad(format!("bucket {bucket}: {e}")))?);
    let place = |path: String| Place::remote(store.clone(), &bucket, &path);
    let (from, to) = (s.text("read_from").map(place), s.text("write_to").map(place));
    rest(s, spec, from, to)
}

fn rest(
    mut s: Settings<'_>,
    spec: &ExternalSpec,
    from: Option<Place>,
    to: Option<Place>,
) -> Result<FileSettings, StreamError> {
    if from.is_none() && to.is_none() {
        return Err(bad(format!("{} needs read_from='dir/*.parquet', write_to='dir', or both", spec.name)));
    }
    let name = match (s.text("data_format"), &from) {
        (Some(name), _) => name,
        (None, Some(from)) => by_extension(&from.below)
            .ok_or_else(|| {
                bad(format!("read_from '{}' does not say which format it is; set data_format", from.shown))
            })?
            .to_owned(),
        (None, None) => "Parquet".to_owned(),
    };
    let format = weir_format::find(&name)
        .map_err(|e| StreamError { code: Code::UnknownFormat, message: format!("data_format: {e}") })?;
    if !format.input {
        return Err(bad(format!(
            "data_format='{}' can only be written; files have to be read, too",
            format.name
        )));
    }
    let partition_by: Vec<String> = s
        .text("partition_by")
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .map(str::to_owned)
        .collect();
    if let Some(column) =
        partition_by.iter().find(|c| spec.payload.index_of(c).is_err() && !spec.payload.fields().is_empty())
    {
        return Err(bad(format!("partition_by names {column}, which is no column of {}", spec.name)));
    }
    let fields = spec.payload.fields();
    if !fields.is_empty() && fields.iter().all(|f| partition_by.contains(f.name())) {
        return Err(bad(format!("partition_by names all columns of {}: files need one at least", spec.name)));
    }
    Ok(FileSettings { from, to, format, partition_by })
}

/// The format that files of such a name have.
fn by_extension(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
        "parquet" => "Parquet",
        "csv" => "CSVWithNames",
        "tsv" => "TabSeparatedWithNames",
        "json" | "jsonl" | "ndjson" => "JSONEachRow",
        "arrow" | "arrows" => "ArrowStream",
        "avro" => "Avro",
        "native" => "Native",
        _ => return None,
    })
}

/// What names of new files end in.
pub(super) fn extension(format: &FormatInfo) -> &'static str {
    match format.name {
        "Parquet" => "parquet",
        "CSV" | "CSVWithNames" | "CSVWithNamesAndTypes" => "csv",
        name if name.starts_with("TabSeparated") => "tsv",
        "JSONEachRow" => "jsonl",
        "ArrowStream" => "arrow",
        "Avro" => "avro",
        "Native" => "native",
        _ => "data",
    }
}
