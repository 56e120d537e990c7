//! `weir client`: statements over HTTP to the streaming port, results as tables.
//!
//! ```text
//! mod     options, batch mode      prompt  interactive mode
//! run     one statement: send, show, cancel, sum up
//! http    connection, request, errors      table, scan   what is shown of the bytes
//! ```

pub mod http;
mod prompt;
pub mod run;
mod scan;
mod table;

use crate::options::HTTP_STREAMING_PORT_DEFAULT;
use clap::Args;
use http::Target;
use run::{Failure, Input, Show, Terminal};
use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use weir_wire::statement_text;

#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub struct ClientArgs {
    /// Show this help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Host name or address of the server
    #[arg(short = 'h', long, env = "WEIR_HOST", default_value = "127.0.0.1")]
    host: String,
    /// HTTP port of the server; the port decides whether FROM follows a stream or reads it once
    #[arg(long, env = "WEIR_PORT", default_value_t = HTTP_STREAMING_PORT_DEFAULT)]
    port: u16,
    #[arg(short, long, env = "WEIR_USER", default_value = "default")]
    user: String,
    /// Password of the user [default: none]
    #[arg(long, env = "WEIR_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Database that names without one are looked up in
    #[arg(short, long, default_value = "default")]
    database: String,
    /// Run this and exit: 0 done, 1 a statement failed, 2 wrong usage, 3 no connection
    #[arg(short, long)]
    query: Option<String>,
    /// Allow several statements in --query, separated by ;
    #[arg(short = 'n', long)]
    multiquery: bool,
    /// Format of results [default: tables on a terminal, else TabSeparated]
    #[arg(long)]
    format: Option<String>,
}

pub fn main(args: ClientArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("weir client: can not start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let target = Target {
        host: args.host,
        port: args.port,
        user: args.user,
        password: args.password,
        database: args.database,
    };
    let (to_terminal, from_terminal) = (std::io::stdout().is_terminal(), std::io::stdin().is_terminal());
    let show = match args.format {
        Some(format) => Show::Format(format),
        None if to_terminal => Show::Tables,
        None => Show::Format("TabSeparated".into()),
    };
    let outcome = match args.query {
        Some(text) => runtime.block_on(batch(&target, &show, &text, args.multiquery, from_terminal)),
        None if from_terminal => prompt::interactive(&runtime, target, show),
        None => {
            let mut script = String::new();
            match std::io::stdin().read_to_string(&mut script) {
                Ok(_) => runtime.block_on(batch(&target, &show, &script, true, true)),
                Err(e) => Err(Failure::Usage(format!("the script on standard input can not be read: {e}"))),
            }
        }
    };
    // Anything but the last write is done; a blocked read of standard input must not hold us.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.text() {
                eprintln!("{text}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Runs the statements of `text` in order, up to the first that fails.
async fn batch(
    target: &Target,
    show: &Show,
    text: &str,
    several: bool,
    stdin_used: bool,
) -> Result<(), Failure> {
    let statements = statement_text::split(text);
    if statements.len() > 1 && !several {
        return Err(Failure::Usage(format!(
            "--query holds {} statements; add -n to run them in order",
            statements.len()
        )));
    }
    if statements.is_empty() {
        return Err(Failure::Usage("there is no statement to run".into()));
    }
    let mut session = run::ClientSession::new(target.clone());
    for statement in statements {
        let (statement, show) = run::vertical(statement, show);
        let input = match takes_stdin(statement) && !stdin_used {
            true => Input::Stdin,
            false => Input::None,
        };
        let terminal = Terminal { summary: false };
        run::statement(&mut session, statement, &show, input, &terminal).await?;
    }
    Ok(())
}

/// An INSERT whose data is not in its text.
fn takes_stdin(statement: &str) -> bool {
    match statement_text::head(statement.as_bytes(), true) {
        statement_text::Head::Insert { data, .. } => statement[data..].trim().is_empty(),
        _ => false,
    }
}
