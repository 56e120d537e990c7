//! What a stream's SETTINGS mean to storage, with the dialect's defaults.

/// `storage_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StorageType {
    /// Log and parts.
    #[default]
    Hybrid,
    /// Log only; retention drops what is old.
    Streaming,
    /// Log in memory, no parts; gone after a restart.
    Memory,
}

/// `logstore`: who keeps the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogStore {
    /// We do, on our disk.
    #[default]
    Native,
    /// Others do; its rows are fed to the shards ([`crate::Shard::feed`]).
    External,
}

/// `logstore_full`: what becomes of an append where the log has all the bytes that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFull {
    /// It is refused.
    #[default]
    Refuse,
    /// It is taken, and the oldest rows go, whoever still needs them.
    DropOldest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    #[default]
    None,
    Lz4,
    Zstd,
}

/// Numbers a stream was created or altered with. All bounds are per shard.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    pub shards: u32,
    pub storage_type: StorageType,
    /// External only of hybrid streams.
    pub log_store: LogStore,
    /// `logstore_codec`: compression of the rows in the log.
    pub log_codec: Codec,
    /// `logstore_retention_bytes`; `None` keeps what is not yet committed or pinned and, of
    /// the rest, what `logstore_retention_ms` says.
    pub log_retention_bytes: Option<u64>,
    /// `logstore_retention_ms`; `None` = for ever. Default one day.
    pub log_retention_ms: Option<u64>,
    /// `logstore_bytes_max`: the log never takes more of the disk; `None` = no bound.
    pub log_bytes_max: Option<u64>,
    pub log_full: LogFull,
    /// `flush_threshold_ms`: rows older than this are committed to parts.
    pub flush_threshold_ms: u64,
    pub flush_threshold_count: u64,
    pub flush_threshold_bytes: u64,
    /// Uncommitted log beyond this slows appends down (back-pressure).
    pub uncommitted_bytes_max: u64,
    pub segment_size_bytes_max: u64,
    pub index_interval_bytes: u64,
    pub idempotent_ids_max: u32,
    /// Recent batches kept decoded for tail readers.
    pub tail_ring_bytes_max: u64,
    /// Compression of parts.
    pub part_codec: Codec,
    pub row_group_rows_max: usize,
    /// Parts above this are not merged any further.
    pub merged_part_bytes_max: u64,
    /// Columns with a Parquet bloom filter.
    pub bloom_filter_columns: Vec<String>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            shards: 1,
            storage_type: StorageType::Hybrid,
            log_store: LogStore::Native,
            log_codec: Codec::None,
            log_retention_bytes: None,
            log_retention_ms: Some(86_400_000),
            log_bytes_max: None,
            log_full: LogFull::Refuse,
            flush_threshold_ms: 2_000,
            flush_threshold_count: 100_000,
            flush_threshold_bytes: 10 << 20,
            uncommitted_bytes_max: 512 << 20,
            segment_size_bytes_max: 256 << 20,
            index_interval_bytes: 4 << 20,
            idempotent_ids_max: 1_000,
            tail_ring_bytes_max: 4 << 20,
            part_codec: Codec::Zstd,
            row_group_rows_max: 122_880,
            merged_part_bytes_max: 8 << 30,
            bloom_filter_columns: Vec::new(),
        }
    }
}
