//! `weir demo`: a server of its own on a temporary directory, a loader that inserts, and a
//! streaming query that prints until Ctrl-C. Leaves nothing behind.

use crate::client::http::{self, RequestError, Target};
use crate::client::run::{self, ClientSession, Failure, Input, Show, Terminal};
use crate::options::ServerArgs;
use crate::serve::{Server, Signals};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use weir_base::Rng;

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Inserts a second
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Stop by itself after this many seconds [default: at Ctrl-C]
    #[arg(long)]
    seconds: Option<u64>,
}

const CREATE: &str = "CREATE STREAM trades (symbol string, side string, price float64, quantity int64)";
const QUERY: &str = "SELECT _tp_time, symbol, side, price, quantity, round(price * quantity, 2) AS value \
                     FROM trades WHERE quantity >= 50";
/// Names and where their prices start.
const SYMBOLS: [(&str, f64); 5] =
    [("ELBE", 41.2), ("ODER", 118.0), ("ISAR", 9.75), ("SPREE", 63.4), ("WESER", 240.5)];
const ROWS_PER_INSERT: usize = 3;

/// The demo's directory, gone with it.
struct Scratch(PathBuf);

#[allow(clippy::disallowed_methods, reason = "outside any data directory")]
impl Scratch {
    fn new() -> std::io::Result<Scratch> {
        let name = format!("weir-demo-{}-{:08x}", std::process::id(), Rng::from_machine().u64() as u32);
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }
}

#[allow(clippy::disallowed_methods, reason = "outside any data directory")]
impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("weir demo: could not remove {}: {e}", self.0.display());
        }
    }
}

pub fn main(args: DemoArgs) -> ExitCode {
    match demo(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("weir demo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &DemoArgs) -> Result<(), String> {
    let scratch = Scratch::new().map_err(|e| format!("can not make a temporary directory: {e}"))?;
    let mut config = ServerArgs {
        data_dir: Some(scratch.0.clone()),
        http_port: Some(0),
        http_streaming_port: Some(0),
        ..ServerArgs::default()
    }
    .decide()?;
    // A password in the environment is for real servers.
    config.password = None;
    let server = Server::start(&config)?;
    let outcome = server.network().block_on(show(&server, args));
    run::say("\nStopping; the demo's data goes with it.\n");
    server.stop();
    outcome
}

async fn show(server: &Server, args: &DemoArgs) -> Result<(), String> {
    let target = Target {
        host: server.streaming.ip().to_string(),
        port: server.streaming.port(),
        user: "default".into(),
        password: None,
        database: "default".into(),
    };
    send(&target, CREATE).await?;
    run::say(&format!(
        "A Weir server runs in this process, a loader inserts a few made-up trades {} times a second,\n\
         and this query, which never ends, prints each trade of 50 or more as it arrives:\n\n  {QUERY}\n\n\
         Meanwhile, in another terminal:\n\
         \x20 weir client --port {}                                      then: SELECT * FROM trades;\n\
         \x20 weir client --port {} -q \"SELECT symbol, count() FROM table(trades) GROUP BY symbol\"\n\
         \x20 curl 'http://{}/?query=SELECT+count()+FROM+trades'          (port of table mode)\n\n\
         Ctrl-C ends the demo and removes its data.\n\n",
        args.rate, target.port, target.port, server.table
    ));
    let mut session = ClientSession::new(target.clone());
    let terminal = Terminal { summary: false };
    let limit = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let mut signals = Signals::listen().map_err(|e| format!("can not wait for signals: {e}"))?;
    tokio::select! {
        shown = run::statement(&mut session, QUERY, &Show::Tables, Input::None, &terminal) => match shown {
            Ok(()) => Err("the query ended by itself".into()),
            Err(Failure::Cancelled | Failure::OutputClosed) => Ok(()),
            Err(failure) => Err(failure.text().unwrap_or_default()),
        },
        loaded = load(&target, args.rate) => loaded,
        _ = signals.next() => Ok(()),
        () = limit => Ok(()),
    }
}

async fn send(target: &Target, statement: &str) -> Result<(), String> {
    match http::ask(target, &[], http::text_body(statement.to_owned())).await {
        Ok(_) => Ok(()),
        Err(RequestError::Connection(text) | RequestError::Refused(text)) => Err(text),
    }
}

/// Inserts until it fails or is dropped.
async fn load(target: &Target, rate: u32) -> Result<(), String> {
    let rng = Rng::from_machine();
    let mut prices = SYMBOLS.map(|(_, price)| price);
    let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
    loop {
        due.tick().await;
        let mut insert =
            String::from("INSERT INTO trades (symbol, side, price, quantity) FORMAT JSONEachRow\n");
        for _ in 0..ROWS_PER_INSERT {
            let i = rng.below(SYMBOLS.len() as u64) as usize;
            prices[i] = (prices[i] * (1.0 + (rng.f64() - 0.5) / 100.0)).max(0.01);
            let side = if rng.below(2) == 0 { "buy" } else { "sell" };
            let quantity = 1 + rng.below(100);
            insert += &format!(
                "{{\"symbol\":\"{}\",\"side\":\"{side}\",\"price\":{:.2},\"quantity\":{quantity}}}\n",
                SYMBOLS[i].0, prices[i]
            );
        }
        send(target, &insert).await?;
    }
}
