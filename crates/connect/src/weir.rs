//! `type='weir'`: a stream of another Weir, over its HTTP port.
//!
//! ```text
//! read: a query without end for each shard -> bounded channel -> the query here
//! write: rows -> one INSERT, with where the writer was and where it is then -> one record there
//! ```
//!
//! Invariants
//! - a shard there is a partition, its sequence numbers are the offsets;
//! - rows and the position of who writes them are one record over there: a writer that asks finds out how far
//!   it had come, and one that lags behind another of its name is refused.

mod reader;
mod remote;
mod settings;
mod writer;

use crate::remote::RemoteHosts;
use arrow_schema::{Field, Schema, SchemaRef};
use remote::Remote;
use settings::{SECRETS, WeirSettings};
use std::fmt;
use std::sync::Arc;
use weir_base::SeqNo;
use weir_plan::{
    Connector, ExternalReader, ExternalScan, ExternalSpec, ExternalStream, ExternalWrite, ExternalWriter,
    Partition, StreamError,
};

pub struct WeirConnector {
    hosts: RemoteHosts,
}

impl WeirConnector {
    /// `hosts`: who may be spoken to.
    pub fn new(hosts: RemoteHosts) -> Self {
        WeirConnector { hosts }
    }
}

#[async_trait::async_trait]
impl Connector for WeirConnector {
    fn kind(&self) -> &'static str {
        "weir"
    }

    fn secrets(&self) -> &'static [&'static str] {
        SECRETS
    }

    fn open(&self, spec: ExternalSpec) -> Result<Arc<dyn ExternalStream>, StreamError> {
        let settings = WeirSettings::parse(&spec)?;
        let remote = Arc::new(Remote::new(spec.name.clone(), settings, &self.hosts)?);
        Ok(Arc::new(WeirStream { remote, payload: spec.payload, around: spec.around }))
    }

    async fn infer(&self, spec: ExternalSpec) -> Result<SchemaRef, StreamError> {
        let settings = WeirSettings::parse(&spec)?;
        let remote = Remote::new(spec.name, settings, &self.hosts)?;
        let field = |(name, ty): (String, weir_format::types::Type)| ty.field(&name);
        let fields: Vec<Field> = remote.columns().await?.into_iter().map(field).collect();
        Ok(Arc::new(Schema::new(fields)))
    }
}

struct WeirStream {
    remote: Arc<Remote>,
    payload: SchemaRef,
    around: SchemaRef,
}

impl fmt::Debug for WeirStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote.doing("stream"))
    }
}

#[async_trait::async_trait]
impl ExternalStream for WeirStream {
    async fn partitions(&self) -> Result<Vec<Partition>, StreamError> {
        self.remote.partitions().await
    }

    async fn seek_time(&self, at_ms: i64, of: &[Partition]) -> Result<Vec<SeqNo>, StreamError> {
        self.remote.seek_time(at_ms, of).await
    }

    async fn read(&self, scan: ExternalScan) -> Result<Box<dyn ExternalReader>, StreamError> {
        Ok(Box::new(reader::start(&self.remote, &self.payload, &self.around, scan)))
    }

    async fn raw(&self, _partition: i32, _at: SeqNo) -> Result<Option<Vec<u8>>, StreamError> {
        // Rows come as columns: none of them fails to parse.
        Ok(None)
    }

    async fn write(&self, how: ExternalWrite) -> Result<Box<dyn ExternalWriter>, StreamError> {
        Ok(Box::new(writer::WeirWriter::new(self.remote.clone(), how)))
    }

    fn is_transactional(&self) -> bool {
        self.remote.settings.exactly_once
    }
}
