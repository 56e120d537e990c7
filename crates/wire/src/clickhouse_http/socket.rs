//! A connection's socket that tells when everything written has left, and where it is served.
//!
//! A body that must be cut may only fail after its last bytes are out: hyper drops what it
//! still holds when a body fails. hyper flushes the socket exactly when its own buffer is
//! empty, so a flush after the last bytes is the sign.

use futures::task::AtomicWaker;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

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

/// Whether a connection is served by network threads, as all are, or by compute threads, as those
/// are that carry a result without end: who computes a row then writes it to the socket itself.
#[derive(Debug, Default)]
pub struct Place {
    compute: AtomicBool,
    changed: Notify,
}

impl Place {
    pub fn is_compute(&self) -> bool {
        self.compute.load(Ordering::Acquire)
    }

    fn set(&self, compute: bool) {
        self.compute.store(compute, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until the connection belongs elsewhere.
    pub async fn is_not(&self, compute: bool) {
        while self.is_compute() == compute {
            self.changed.notified().await;
        }
    }
}

/// Keeps a connection on the compute threads.
#[derive(Debug)]
pub struct Moved(Arc<Place>);

impl Moved {
    pub fn to_compute(place: Arc<Place>) -> Moved {
        place.set(true);
        Moved(place)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// What a flowing body has to do with its connection.
#[derive(Debug, Clone)]
pub struct FlowSide {
    pub flushes: Arc<Flushes>,
    pub place: Arc<Place>,
}

pub struct Socket {
    stream: TcpStream,
    flushes: Arc<Flushes>,
}

impl Socket {
    pub fn new(stream: TcpStream) -> (Socket, FlowSide) {
        let flushes = Arc::new(Flushes::default());
        let socket = Socket { stream, flushes: flushes.clone() };
        (socket, FlowSide { flushes, place: Arc::default() })
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
