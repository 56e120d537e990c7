//! A running server: runtimes, listeners, ready line, signals, drain.

use crate::data_dir::{self, DataDirLock};
use crate::memory_limit::available_bytes;
use crate::options::{ServerArgs, ServerConfig};
use crate::{VERSION, allocator, wiring};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use weir_base::{Rng, SystemClock};
use weir_engine::{Engine, QueryMode};
use weir_wire::{Access, HttpOptions, HttpServer};

/// How long requests that run may take to finish after SIGTERM; closing the logs has the rest
/// of the five seconds.
const DRAIN: Duration = Duration::from_millis(1500);
const CLOSE: Duration = Duration::from_secs(3);
/// Planning recurses; unused stack costs address space, not memory.
const COMPUTE_STACK_BYTES: usize = 8 << 20;
const NETWORK_STACK_BYTES: usize = 1 << 20;

/// A server that accepts.
pub struct Server {
    pub table: SocketAddr,
    pub streaming: SocketAddr,
    http: HttpServer,
    engine: Arc<Engine>,
    network: Runtime,
    compute: Runtime,
    _lock: DataDirLock,
}

pub fn main(args: ServerArgs) -> Result<(), String> {
    allocator::fit_to(available_bytes());
    let config = args.decide()?;
    tracing_subscriber::fmt().with_max_level(config.log_level).with_writer(std::io::stderr).init();
    let server = Server::start(&config)?;
    // Before anyone is told that it is ready: a signal from then on is a stop, not an accident.
    let signals = server.network.block_on(async { Signals::listen() });
    let mut signals = signals.map_err(|e| format!("can not wait for signals: {e}"))?;
    println!(
        "weir {VERSION} ready: http://{} (table) http://{} (streaming) data {}",
        server.table,
        server.streaming,
        config.data_dir.display()
    );
    let signal = server.network.block_on(signals.next());
    tracing::info!("{signal}: draining");
    server.stop();
    Ok(())
}

/// SIGTERM and SIGINT, from when it is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Within a runtime.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one; which it was.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn listen(config: &ServerConfig, port: u16, option: &str) -> Result<TcpListener, String> {
    let address = SocketAddr::new(config.listen, port);
    TcpListener::bind(address).map_err(|e| {
        format!("can not listen on {address}: {e}; choose another port with {option} (0 takes a free one)")
    })
}

fn runtime(name: &'static str, threads: usize, stack_bytes: usize) -> Result<Runtime, String> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(stack_bytes)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|e| format!("can not start the {name} threads: {e}"))
}

impl Server {
    /// # Errors
    /// One line that says what is in the way.
    pub fn start(config: &ServerConfig) -> Result<Server, String> {
        let lock = data_dir::lock(&config.data_dir)?;
        // Before recovery: a port that is taken is known at once.
        let table_listener = listen(config, config.http_port, "--http-port")?;
        let streaming_listener = listen(config, config.http_streaming_port, "--http-streaming-port")?;
        let address = |l: &TcpListener| l.local_addr().map_err(|e| format!("a listener has no address: {e}"));
        let (table, streaming) = (address(&table_listener)?, address(&streaming_listener)?);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let network = runtime("network", (cores / 4).max(2), NETWORK_STACK_BYTES)?;
        let compute = runtime("compute", cores.max(2), COMPUTE_STACK_BYTES)?;
        let engine = wiring::open_engine(config, compute.handle(), network.handle())?;
        let rng = Rng::from_machine();
        let http = HttpServer::new(
            engine.clone(),
            Access::new(engine.users().clone(), &rng),
            Arc::new(SystemClock::new()),
            rng,
            HttpOptions { connections_max: config.connections_max, ..HttpOptions::default() },
            compute.handle().clone(),
        );
        for (listener, mode) in
            [(table_listener, QueryMode::Table), (streaming_listener, QueryMode::Streaming)]
        {
            let http = http.clone();
            network.spawn(async move {
                if let Err(e) = http.serve(listener, mode).await {
                    tracing::error!("a listener stopped: {e}");
                }
            });
        }
        Ok(Server { table, streaming, http, engine, network, compute, _lock: lock })
    }

    pub fn network(&self) -> &Runtime {
        &self.network
    }

    /// Drains, closes the logs and ends all threads, within five seconds.
    pub fn stop(self) {
        self.network.block_on(self.http.shut_down(DRAIN));
        let engine = self.engine.clone();
        let closed = self.compute.block_on(async { tokio::time::timeout(CLOSE, engine.shutdown()).await });
        if closed.is_err() {
            tracing::warn!("closing took longer than {CLOSE:?}; the next start recovers the rest");
        }
        self.network.shutdown_background();
        self.compute.shutdown_background();
    }
}
