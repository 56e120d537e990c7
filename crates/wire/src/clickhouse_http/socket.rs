//! A connection's socket that tells when everything written has left.
//!
//! A body that must be cut may only fail after its last bytes are out: hyper drops what it
//! still holds when a body fails. hyper flushes the socket exactly when its own buffer is
//! empty, so a flush after the last bytes is the sign.

use futures::task::AtomicWaker;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Counts flushes of one socket.
#[derive(Debug, Default)]
pub struct Flushes {
    count: AtomicU64,
    waiting: AtomicWaker,
}

impl Flushes {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Ready once more flushes than `seen` have happened.
    pub fn poll_past(&self, seen: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.count() > seen {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        if self.count() > seen { Poll::Ready(()) } else { Poll::Pending }
    }
}

pub struct Socket {
    stream: TcpStream,
    flushes: Arc<Flushes>,
}

impl Socket {
    pub fn new(stream: TcpStream) -> (Socket, Arc<Flushes>) {
        let flushes = Arc::new(Flushes::default());
        (Socket { stream, flushes: flushes.clone() }, flushes)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.flushes.count.fetch_add(1, Ordering::AcqRel);
            self.flushes.waiting.wake();
        }
        flushed
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
