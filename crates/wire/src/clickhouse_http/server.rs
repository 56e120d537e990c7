//! Accepts connections and drives them; the only file here that owns sockets.
//!
//! A connection is served by the network threads, where no query computes. While it carries a
//! result without end it is served by the compute threads instead: the one that has computed a
//! row writes it out, and no other has to be woken for that.

use super::answer::Answer;
use super::sessions::Sessions;
use super::socket::{Place, Socket};
use super::{Shared, routes};
use crate::access::Access;
use crate::service::QueryService;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_base::{Clock, Rng, err};
use weir_engine::QueryMode;

/// Limits of a server, over all its ports.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Connections at a time. One more is answered 503 (code 202) and closed.
    pub connections_max: usize,
    /// A request's head must be complete this long after the connection is ready for it; an
    /// idle kept-alive connection is closed after the same time.
    pub head_timeout: Duration,
    /// Of request line and headers together; also what hyper holds of an answer.
    pub head_bytes_max: usize,
    /// A REST body, held whole.
    pub rest_body_bytes_max: usize,
    /// What `X-…-Server-Display-Name` says.
    pub display_name: String,
}

impl Default for HttpOptions {
    fn default() -> Self {
        HttpOptions {
            connections_max: 4096,
            head_timeout: Duration::from_secs(75),
            head_bytes_max: 128 << 10,
            rest_body_bytes_max: 64 << 20,
            display_name: "weir".into(),
        }
    }
}

/// Serves any number of listeners. Cheap to clone.
#[derive(Clone)]
pub struct HttpServer {
    shared: Arc<Shared>,
    connections: TaskTracker,
}

impl HttpServer {
    /// Statements run on `compute`; connections on the runtime that calls [`Self::serve`].
    pub fn new(
        service: Arc<dyn QueryService>,
        access: Access,
        clock: Arc<dyn Clock>,
        rng: Rng,
        options: HttpOptions,
        compute: tokio::runtime::Handle,
    ) -> HttpServer {
        let metrics = service.metrics();
        let shared = Shared {
            sessions: Sessions::new(clock.clone()),
            requests: metrics.counter("http_requests_total", "HTTP requests answered"),
            failed_requests: metrics
                .counter("http_requests_failed_total", "HTTP requests answered with an error"),
            inserted_rows: metrics.counter("http_inserted_rows_total", "rows taken in over HTTP"),
            connections: metrics.gauge("http_connections", "open HTTP connections"),
            refused_connections: metrics
                .counter("http_connections_refused_total", "HTTP connections beyond the limit"),
            service,
            access,
            clock,
            rng,
            display_name: options.display_name.as_str().into(),
            options,
            compute,
            stop_streams: CancellationToken::new(),
            stop_all: CancellationToken::new(),
        };
        HttpServer { shared: Arc::new(shared), connections: TaskTracker::new() }
    }

    /// Accepts on `listener` until [`Self::shut_down`]. `mode` is what the port stands for.
    ///
    /// # Errors
    /// The listener can not be registered with the runtime.
    pub async fn serve(&self, listener: std::net::TcpListener, mode: QueryMode) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let network = Handle::current();
        loop {
            let accepted = tokio::select! {
                () = self.shared.stop_streams.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of descriptors, or the client is gone already: neither ends the server.
                    tracing::warn!("could not accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            if self.connections.len() >= self.shared.options.connections_max {
                self.shared.refused_connections.add(1);
                refuse(&stream, self.shared.options.connections_max);
                continue;
            }
            // Rows leave as they come; waiting for company would cost latency.
            let _ = stream.set_nodelay(true);
            let connection = Connection::new(self.shared.clone(), stream, mode);
            let runtimes = Runtimes { network: network.clone(), compute: self.shared.compute.clone() };
            self.shared.connections.add(1);
            self.connections.spawn(connection.serve(false, runtimes, self.connections.clone()));
        }
    }

    /// Stops accepting, ends streaming queries, lets everything else finish within `drain`,
    /// then cuts what is left. Returns when no connection is left.
    pub async fn shut_down(&self, drain: Duration) {
        self.shared.stop_streams.cancel();
        self.connections.close();
        if tokio::time::timeout(drain, self.connections.wait()).await.is_err() {
            self.shared.stop_all.cancel();
            let left = self.connections.len();
            tracing::info!("cutting {left} connections that did not finish within {drain:?}");
            self.connections.wait().await;
        }
    }
}

/// The answer past `connections_max`, written without waiting.
fn refuse(stream: &TcpStream, limit: usize) {
    let error = err!(TooManyQueries, "{limit} connections are open, no more are taken; retry later");
    let text = super::exception::text(&error) + "\n";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=UTF-8\r\nConnection: close\r\n\
         X-ClickHouse-Exception-Code: {}\r\nContent-Length: {}\r\n\r\n{text}",
        error.code.number(),
        text.len()
    );
    let _ = stream.try_write(answer.as_bytes());
}

struct Runtimes {
    network: Handle,
    compute: Handle,
}

type Service = Box<
    dyn hyper::service::Service<
            Request<Incoming>,
            Response = Answer,
            Error = Infallible,
            Future = BoxFuture<'static, std::result::Result<Answer, Infallible>>,
        > + Send
        + Sync,
>;

struct Connection {
    shared: Arc<Shared>,
    place: Arc<Place>,
    http: Pin<Box<http1::Connection<TokioIo<Socket>, Service>>>,
}

impl Connection {
    fn new(shared: Arc<Shared>, stream: TcpStream, mode: QueryMode) -> Connection {
        let (socket, flow) = Socket::new(stream);
        let place = flow.place.clone();
        let of_requests = shared.clone();
        let service: Service = Box::new(service_fn(move |request| {
            routes::answer(of_requests.clone(), request, mode, flow.clone()).boxed()
        }));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(shared.options.head_timeout)
            .max_buf_size(shared.options.head_bytes_max)
            .max_headers(128);
        let http = Box::pin(http.serve_connection(TokioIo::new(socket), service));
        Connection { shared, place, http }
    }

    /// Serves it on this runtime until its end, or until it belongs on the other.
    fn serve(mut self, on_compute: bool, runtimes: Runtimes, all: TaskTracker) -> BoxFuture<'static, ()> {
        async move {
            let served = tokio::select! {
                served = self.http.as_mut() => served,
                () = self.place.is_not(on_compute) => {
                    let next = match on_compute {
                        true => runtimes.network.clone(),
                        false => runtimes.compute.clone(),
                    };
                    all.spawn_on(self.serve(!on_compute, runtimes, all.clone()), &next);
                    return;
                }
                () = self.shared.stop_streams.cancelled() => {
                    self.http.as_mut().graceful_shutdown();
                    tokio::select! {
                        served = self.http.as_mut() => served,
                        () = self.shared.stop_all.cancelled() => Ok(()),
                    }
                }
            };
            if let Err(e) = served {
                // Clients leave, and broken results are cut: both are ordinary.
                tracing::debug!("connection ended: {e}");
            }
            self.shared.connections.add(-1);
        }
        .boxed()
    }
}
