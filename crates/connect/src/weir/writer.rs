//! Writes a stream of another Weir: what lies between two positions is one INSERT there.

use super::remote::{Remote, ident};
use crate::http::NoAnswer;
use crate::settings::bad;
use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use std::time::Duration;
use weir_base::Code;
use weir_format::{FormatSettings, ResultStats};
use weir_plan::{
    ExternalWrite, ExternalWriter, MESSAGE_HEADERS_COLUMN, MESSAGE_KEY_COLUMN, Position, StreamError,
};

/// Rows that wait for a position, bytes: with so many the next position will do, and more than that are refused.
const WAITING_BYTES_FULL: usize = 8 << 20;
const WAITING_BYTES_MAX: usize = 128 << 20;
/// Tries of an INSERT before who writes is told; the waits between them double.
const TRIES: u32 = 4;
const WAIT_FIRST: Duration = Duration::from_millis(100);

pub(super) struct WeirWriter {
    remote: Arc<Remote>,
    /// Of a writer with positions.
    id: Option<String>,
    /// Where it is, in base64, as the other side says.
    at: String,
    waiting: Vec<RecordBatch>,
    bytes: usize,
}

impl WeirWriter {
    pub fn new(remote: Arc<Remote>, how: ExternalWrite) -> Self {
        let id = match how {
            ExternalWrite::Plain => None,
            ExternalWrite::Transactional(name) => Some(id_of(&name)),
        };
        WeirWriter { remote, id, at: String::new(), waiting: Vec::new(), bytes: 0 }
    }

    async fn send(&mut self, to: Option<&str>) -> Result<(), StreamError> {
        let Some(first) = self.waiting.first() else { return Ok(()) };
        let schema = first.schema();
        let data = encoded(&schema, &self.waiting)?;
        let columns: Vec<String> = schema.fields().iter().map(|f| ident(f.name())).collect();
        let sql = format!("INSERT INTO {} ({}) FORMAT ArrowStream", self.remote.stream(), columns.join(", "));
        let mut settings = Vec::new();
        if let (Some(id), Some(to)) = (&self.id, to) {
            settings.extend([
                ("log_writer", id.as_str()),
                ("log_writer_from", self.at.as_str()),
                ("log_writer_position", to),
            ]);
        }
        // Without a position a second try may find the first one done.
        let tries = if to.is_some() { TRIES } else { 1 };
        let mut wait = WAIT_FIRST;
        for left in (0..tries).rev() {
            match self.remote.send("could not write to", &sql, &settings, Some(data.clone()), true).await {
                Ok(_) => break,
                Err(NoAnswer::Away(_)) if left > 0 => tokio::time::sleep(wait).await,
                // Somebody of the same name wrote since: begin anew from where they are.
                Err(NoAnswer::Bad(e)) if e.code == Code::SequenceOutOfRange && to.is_some() => {
                    return Err(StreamError { code: Code::NetworkError, ..e });
                }
                Err(e) => return Err(e.error()),
            }
            wait *= 2;
        }
        if let Some(to) = to {
            self.at = to.to_owned();
        }
        self.waiting.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// A name as the UUID that the other side knows it by (version 8 of RFC 9562: of our own making).
fn id_of(name: &str) -> String {
    let half = |seed: u64| {
        name.bytes()
            .fold(0xcbf2_9ce4_8422_2325 ^ seed, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    let (a, b) = (half(0), half(0x9e37_79b9_7f4a_7c15));
    let a = a & !0xf000 | 0x8000;
    let b = b & !(0b11 << 62) | 0b10 << 62;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

/// Of the values themselves: a batch may be a piece of a larger one.
fn bytes_of(array: &dyn Array) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

fn encoded(schema: &SchemaRef, rows: &[RecordBatch]) -> Result<Vec<u8>, StreamError> {
    let failed = |e: weir_format::FormatError| bad(format!("rows could not be written as ArrowStream: {e}"));
    let mut encoder =
        weir_format::encoder("ArrowStream", schema.clone(), &FormatSettings::default()).map_err(failed)?;
    let mut out = Vec::new();
    encoder.begin(&mut out).map_err(failed)?;
    for batch in rows {
        encoder.batch(batch, &mut out).map_err(failed)?;
    }
    encoder.end(&ResultStats::default(), &mut out).map_err(failed)?;
    Ok(out)
}

#[async_trait::async_trait]
impl ExternalWriter for WeirWriter {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), StreamError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        // A row here has no key and no headers.
        let names = rows.schema();
        let kept: Vec<usize> = (0..rows.num_columns())
            .filter(|i| {
                ![MESSAGE_KEY_COLUMN, MESSAGE_HEADERS_COLUMN].contains(&names.field(*i).name().as_str())
            })
            .collect();
        let rows = rows
            .project(&kept)
            .map_err(|e| StreamError { code: Code::LogicalError, message: e.to_string() })?;
        self.bytes += rows.columns().iter().map(|c| bytes_of(c.as_ref())).sum::<usize>();
        self.waiting.push(rows);
        if self.bytes <= WAITING_BYTES_MAX {
            return Ok(());
        }
        if self.id.is_none() {
            return self.send(None).await;
        }
        Err(bad(format!(
            "{}: {} bytes of rows left at one position; let fewer leave at once (EMIT ON UPDATE, EMIT CHANGELOG), or \
             delivery='at_least_once'",
            self.remote.doing("could not write to"),
            self.bytes
        )))
    }

    async fn flush(&mut self, at: Option<&Position>) -> Result<(), StreamError> {
        let to = at.filter(|_| self.id.is_some()).map(|at| STANDARD.encode(at.encode()));
        self.send(to.as_deref()).await
    }

    fn linger(&self) -> Duration {
        // A position costs nothing beside its rows.
        Duration::ZERO
    }

    fn is_full(&self) -> bool {
        self.bytes >= WAITING_BYTES_FULL
    }

    async fn reached(&mut self) -> Result<Option<Position>, StreamError> {
        let Some(id) = self.id.clone() else { return Ok(None) };
        let text = self.remote.position(&id).await.map_err(NoAnswer::error)?;
        self.at.clone_from(&text);
        if text.is_empty() {
            return Ok(None);
        }
        let position = STANDARD.decode(&text).ok().and_then(|bytes| Position::decode(&bytes));
        position.map(Some).ok_or_else(|| StreamError {
            code: Code::CorruptedData,
            message: format!(
                "{}: the position of writer {id} is not one of a view",
                self.remote.doing("could not go on writing to")
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_always_the_same_id() {
        assert_eq!(id_of("weir-a"), id_of("weir-a"));
        assert_ne!(id_of("weir-a"), id_of("weir-b"));
        assert_eq!(id_of("weir-a").len(), 36);
        assert_eq!(&id_of("weir-a")[14..15], "8");
    }
}
