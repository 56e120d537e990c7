//! A request's body: pulled, decoded, never held beyond a step.

use super::coding::{Coding, Decoder};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;
use weir_base::{Result, err};

/// What is read and thrown away of a refused body, so that the connection can go on.
const DRAIN_BYTES_MAX: u64 = 16 << 20;
/// How long that may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

pub struct Upload {
    body: Option<Incoming>,
    /// Came with the body, not decoded yet.
    coded: Bytes,
    decoder: Decoder,
    /// ClickHouse's blocks inside the content coding.
    blocks: Option<Decoder>,
    /// Decoded, to be given first: what was read too far.
    pushed_back: Bytes,
    finished: bool,
    pulled: bool,
}

impl Upload {
    pub fn new(body: Incoming, coding: Option<Coding>, in_blocks: bool) -> Result<Upload> {
        Ok(Upload {
            body: Some(body),
            coded: Bytes::new(),
            decoder: Decoder::new(coding)?,
            blocks: in_blocks.then(Decoder::blocks),
            pushed_back: Bytes::new(),
            finished: false,
            pulled: false,
        })
    }

    /// No body.
    pub fn empty() -> Upload {
        Upload {
            body: None,
            coded: Bytes::new(),
            decoder: Decoder::Plain,
            blocks: None,
            pushed_back: Bytes::new(),
            finished: true,
            pulled: false,
        }
    }

    /// A body that is in memory already.
    pub fn of(bytes: Bytes) -> Upload {
        Upload { pushed_back: bytes, ..Upload::empty() }
    }

    /// Reads the whole body, which the caller knows to be small. Done where the connection is
    /// served, it spares handing each piece over to another thread.
    ///
    /// # Errors
    /// 33 when the client goes away.
    pub async fn take_in(&mut self) -> Result<()> {
        let mut pieces = Vec::new();
        while let Some(bytes) = self.pull().await? {
            pieces.push(bytes);
        }
        let all = match pieces.len() {
            1 => pieces.remove(0),
            _ => pieces.concat().into(),
        };
        match self.decoder {
            Decoder::Plain if self.blocks.is_none() => self.pushed_back = all,
            _ => self.coded = all,
        }
        Ok(())
    }

    /// What of a plain body is in memory already.
    pub fn taken_in(&self) -> &[u8] {
        &self.pushed_back
    }

    /// Gives `bytes` again, before the rest.
    pub fn push_back(&mut self, bytes: Bytes) {
        self.pushed_back = bytes;
    }

    /// The next decoded bytes, never empty; `None` at the end.
    ///
    /// # Errors
    /// 33 when the client goes away or its data ends early, 117 when it is not in the coding
    /// it says.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if !self.pushed_back.is_empty() {
            return Ok(Some(std::mem::take(&mut self.pushed_back)));
        }
        while !self.finished {
            let decoded = if self.coded.is_empty() {
                match self.pull().await? {
                    Some(bytes) if matches!(self.decoder, Decoder::Plain) && self.blocks.is_none() => {
                        return Ok(Some(bytes));
                    }
                    Some(bytes) => {
                        self.coded = bytes;
                        continue;
                    }
                    None => {
                        self.finished = true;
                        self.decoder.finish()?
                    }
                }
            } else {
                self.decoder.step(&mut self.coded)?
            };
            let content = match &mut self.blocks {
                None => decoded,
                Some(blocks) => {
                    let mut content = Vec::new();
                    let mut inner = Bytes::from(decoded);
                    while !inner.is_empty() {
                        content.extend(blocks.step(&mut inner)?);
                    }
                    if self.finished {
                        content.extend(blocks.finish()?);
                    }
                    content
                }
            };
            if !content.is_empty() {
                return Ok(Some(content.into()));
            }
        }
        Ok(None)
    }

    async fn pull(&mut self) -> Result<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        self.pulled = true;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| err!(CannotReadAllData, "the request's body broke off: {e}"))?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        self.body = None;
        Ok(None)
    }

    /// All of a small body.
    ///
    /// # Errors
    /// 62 past `bytes_max`, as `what` names it.
    pub async fn all(&mut self, bytes_max: usize, what: &str) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > bytes_max {
                return Err(err!(Syntax, "{what} is longer than {bytes_max} bytes"));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// Reads and forgets the rest, within limits, after a refusal: a client that still sends
    /// would else see a reset instead of the answer, and the connection could not go on. A
    /// client that waits for `100 Continue` is not asked to send.
    pub async fn drain(mut self, expects_continue: bool) {
        if expects_continue && !self.pulled {
            return;
        }
        let Some(mut body) = self.body.take() else { return };
        let mut left = DRAIN_BYTES_MAX;
        let all = async {
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, |d| d.len() as u64);
                match left.checked_sub(bytes) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        // A slower client loses its connection, which is what would happen without draining.
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, all).await;
    }
}
