//! What a server is told: command line, then environment, then configuration file, then
//! defaults.

use crate::config_file;
use crate::memory_limit::{self, MemoryLimit};
use clap::Args;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use weir_connect::{AllowedPaths, RemoteHosts};

pub const HTTP_PORT_DEFAULT: u16 = 8123;
pub const HTTP_STREAMING_PORT_DEFAULT: u16 = 3218;
const CONNECTIONS_MAX_DEFAULT: usize = 4096;
const QUERIES_MAX_DEFAULT: usize = 2000;

#[derive(Args, Debug, Default, Clone)]
pub struct ServerArgs {
    /// Directory of logs, parts and catalog; made if it is missing [default: ./weir-data]
    #[arg(long, env = "WEIR_DATA_DIR", value_name = "PATH")]
    pub data_dir: Option<PathBuf>,
    /// IP address to listen on; beyond loopback a password is needed [default: 127.0.0.1]
    #[arg(long, env = "WEIR_LISTEN", value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// Port of HTTP in table mode; 0 takes a free one, printed when ready [default: 8123]
    #[arg(long, env = "WEIR_HTTP_PORT", value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Port of HTTP in streaming mode; 0 takes a free one, printed when ready [default: 3218]
    #[arg(long, env = "WEIR_HTTP_STREAMING_PORT", value_name = "PORT")]
    pub http_streaming_port: Option<u16>,
    /// YAML file with any of these options, written with underscores [default: none]
    #[arg(long, env = "WEIR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File that holds the password of user default; or give it in WEIR_PASSWORD [default: none]
    #[arg(long, env = "WEIR_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Accounted memory, in bytes or with KiB, MiB, GiB or % of what the machine or its cgroup
    /// gives [default: 80%, less where that leaves under 128MiB]
    #[arg(long, env = "WEIR_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<MemoryLimit>,
    /// Least important messages to write to standard error: error, warn, info, debug or trace
    /// [default: warn]
    #[arg(long, env = "WEIR_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<tracing::Level>,
    /// HTTP connections at a time; one more is answered 503 [default: 4096]
    #[arg(long, env = "WEIR_MAX_CONNECTIONS", value_name = "COUNT")]
    pub max_connections: Option<usize>,
    /// Running queries at a time; one more gets error 202 [default: 2000]
    #[arg(long, env = "WEIR_MAX_CONCURRENT_QUERIES", value_name = "COUNT")]
    pub max_concurrent_queries: Option<usize>,
    /// Where Parquet parts go: s3://BUCKET[/PREFIX] [default: the data directory]
    #[arg(long, env = "WEIR_PARTS_URL", value_name = "URL")]
    pub parts_url: Option<String>,
    /// Where checkpoints of views go: s3://BUCKET[/PREFIX], of the same service [default: the data
    /// directory]
    #[arg(long, env = "WEIR_CHECKPOINTS_URL", value_name = "URL")]
    pub checkpoints_url: Option<String>,
    /// Address of the S3 service, if it is not Amazon's [default: none]
    #[arg(long, env = "WEIR_PARTS_ENDPOINT", value_name = "URL")]
    pub parts_endpoint: Option<String>,
    /// Region of the S3 service [default: us-east-1]
    #[arg(long, env = "WEIR_PARTS_REGION", value_name = "NAME")]
    pub parts_region: Option<String>,
    /// Environment variable with the S3 access key [default: AWS_ACCESS_KEY_ID]
    #[arg(long, env = "WEIR_PARTS_KEY_ENV", value_name = "NAME")]
    pub parts_key_env: Option<String>,
    /// Environment variable with the S3 secret key [default: AWS_SECRET_ACCESS_KEY]
    #[arg(long, env = "WEIR_PARTS_SECRET_ENV", value_name = "NAME")]
    pub parts_secret_env: Option<String>,
    /// Hosts that external streams and alerts may speak to: names, addresses or *.domain, with commas
    /// between [default: all but link-local and metadata addresses]
    #[arg(long, env = "WEIR_ALLOWED_REMOTE_HOSTS", value_name = "HOSTS")]
    pub allowed_remote_hosts: Option<RemoteHosts>,
    /// Directories below which external tables of files may read and write, with commas between [default:
    /// DATA_DIR/user_files]
    #[arg(long, env = "WEIR_ALLOWED_PATHS", value_name = "DIRS")]
    pub allowed_paths: Option<AllowedPaths>,
    /// A clock that stands still until SYSTEM CLOCK ADVANCE moves it, for tests [default: off]
    #[arg(long)]
    pub test_clock: bool,
    /// Defaults of settings; only from the configuration file.
    #[arg(skip)]
    pub settings: BTreeMap<String, String>,
}

/// A place in an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteParts {
    pub url: String,
    pub endpoint: Option<String>,
    pub region: String,
    pub key_env: String,
    pub secret_env: String,
}

/// All of it, decided.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub data_dir: PathBuf,
    pub listen: IpAddr,
    pub http_port: u16,
    pub http_streaming_port: u16,
    pub password: Option<String>,
    pub memory_limit_bytes: u64,
    pub log_level: tracing::Level,
    pub connections_max: usize,
    pub queries_max: usize,
    pub parts: Option<RemoteParts>,
    pub checkpoints: Option<RemoteParts>,
    pub remote_hosts: RemoteHosts,
    pub allowed_paths: AllowedPaths,
    pub test_clock: bool,
    pub settings: BTreeMap<String, String>,
}

impl ServerArgs {
    /// # Errors
    /// One line that names file or option and the remedy.
    pub fn decide(mut self) -> Result<ServerConfig, String> {
        if let Some(file) = self.config.clone() {
            config_file::fill(&mut self, &file)?;
        }
        let listen = self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let password = password(self.password_file.as_deref(), std::env::var("WEIR_PASSWORD").ok())?;
        if !listen.is_loopback() && password.is_none() {
            return Err(format!(
                "listening on {listen} lets other machines in and needs a password: set WEIR_PASSWORD or \
                 --password-file, or listen on 127.0.0.1"
            ));
        }
        let region = self.parts_region.unwrap_or_else(|| "us-east-1".into());
        let key_env = self.parts_key_env.unwrap_or_else(|| "AWS_ACCESS_KEY_ID".into());
        let secret_env = self.parts_secret_env.unwrap_or_else(|| "AWS_SECRET_ACCESS_KEY".into());
        let endpoint = self.parts_endpoint;
        let remote = |url| RemoteParts {
            url,
            endpoint: endpoint.clone(),
            region: region.clone(),
            key_env: key_env.clone(),
            secret_env: secret_env.clone(),
        };
        let (parts, checkpoints) = (self.parts_url.map(remote), self.checkpoints_url.map(remote));
        let data_dir = self.data_dir.unwrap_or_else(|| "./weir-data".into());
        let user_files = std::path::absolute(data_dir.join("user_files"))
            .map_err(|e| format!("{}: {e}", data_dir.display()))?;
        Ok(ServerConfig {
            allowed_paths: self.allowed_paths.unwrap_or_else(|| AllowedPaths::only(user_files)),
            data_dir,
            listen,
            http_port: self.http_port.unwrap_or(HTTP_PORT_DEFAULT),
            http_streaming_port: self.http_streaming_port.unwrap_or(HTTP_STREAMING_PORT_DEFAULT),
            password,
            memory_limit_bytes: self.memory_limit.unwrap_or_default().bytes(memory_limit::available_bytes()),
            log_level: self.log_level.unwrap_or(tracing::Level::WARN),
            connections_max: self.max_connections.unwrap_or(CONNECTIONS_MAX_DEFAULT).max(1),
            queries_max: self.max_concurrent_queries.unwrap_or(QUERIES_MAX_DEFAULT).max(1),
            parts,
            checkpoints,
            remote_hosts: self.allowed_remote_hosts.unwrap_or_default(),
            test_clock: self.test_clock,
            settings: self.settings,
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "configuration, before there is a data directory")]
fn password(file: Option<&Path>, variable: Option<String>) -> Result<Option<String>, String> {
    let password = match (file, variable) {
        (Some(_), Some(_)) => return Err("both --password-file and WEIR_PASSWORD are set; keep one".into()),
        (None, variable) => variable,
        (Some(file), None) => {
            let text = std::fs::read_to_string(file)
                .map_err(|e| format!("can not read the password file {}: {e}", file.display()))?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
    };
    match password {
        Some(p) if p.is_empty() => {
            Err("the password is empty; set one, or leave WEIR_PASSWORD and --password-file out".into())
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_a_password_is_needed() {
        let args = ServerArgs { listen: Some("0.0.0.0".parse().unwrap()), ..ServerArgs::default() };
        let refused = args.decide().unwrap_err();
        assert!(refused.contains("WEIR_PASSWORD") && refused.contains("0.0.0.0"), "{refused}");
    }

    #[test]
    fn defaults() {
        let config = ServerArgs::default().decide().unwrap();
        assert_eq!((config.http_port, config.http_streaming_port), (8123, 3218));
        assert_eq!(config.data_dir, PathBuf::from("./weir-data"));
        assert!(config.listen.is_loopback() && config.password.is_none() && config.parts.is_none());
        assert!(config.memory_limit_bytes > 0);
    }
}
