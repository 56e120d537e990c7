//! The interactive prompt: lines gathered up to `;`, kept in a history over sessions.

use super::http::Target;
use super::run::{self, ClientSession, Failure, Input, Show, Terminal};
use crate::VERSION;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use std::path::PathBuf;
use tokio::runtime::Runtime;
use weir_wire::statement_text;

const HISTORY_LINES_MAX: usize = 10_000;
const HELP: &str = "\
A statement ends with ; and may span lines; end it with \\G for one line a column.
  SHOW STREAMS;   DESCRIBE s;   SELECT * FROM s;   SELECT count() FROM table(s);
FROM s follows a stream without end (Ctrl-C ends the query); table(s) reads what is there.
help, exit (or Ctrl-D). Up and down recall earlier statements.";

enum Typed<'a> {
    Nothing,
    Help,
    Exit,
    /// Statements, complete.
    Run(Vec<&'a str>),
    More,
}

fn typed(text: &str) -> Typed<'_> {
    let trimmed = text.trim();
    let word = trimmed.trim_end_matches(';').trim_end().to_ascii_lowercase();
    match word.as_str() {
        "" => return Typed::Nothing,
        "exit" | "quit" | "\\q" => return Typed::Exit,
        "help" | "?" | "\\h" => return Typed::Help,
        _ => {}
    }
    if trimmed.ends_with("\\G") {
        return Typed::Run(vec![trimmed]);
    }
    // The last ; must be the end: what follows it is not complete.
    let mut rest = trimmed;
    while let Some(end) = statement_text::end_of_statement(rest) {
        rest = &rest[end + 1..];
        if statement_text::is_blank(rest) {
            return Typed::Run(statement_text::split(trimmed));
        }
    }
    Typed::More
}

#[allow(clippy::disallowed_methods, reason = "the user's own history file")]
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let dir =
        state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?.join("weir");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("history"))
}

/// Reads statements until the user leaves.
pub fn interactive(runtime: &Runtime, target: Target, show: Show) -> Result<(), Failure> {
    let no_terminal = |e: ReadlineError| Failure::Usage(format!("the terminal can not be used: {e}; try -q"));
    let config = Config::builder()
        .max_history_size(HISTORY_LINES_MAX)
        .and_then(|c| c.history_ignore_dups(true))
        .map_err(no_terminal)?
        .auto_add_history(false)
        .build();
    let mut editor: Editor<(), FileHistory> = Editor::with_config(config).map_err(no_terminal)?;
    let history = history_file();
    if let Some(file) = &history {
        // The first session has none yet.
        let _ = editor.load_history(file);
    }
    run::say(&format!(
        "weir {VERSION}, to {}:{} as {}. `help` says more.\n",
        target.host, target.port, target.user
    ));
    let mut session = ClientSession::new(target);
    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { "weir> " } else { "   -> " };
        match editor.readline(prompt) {
            Ok(line) => text = text + &line + "\n",
            Err(ReadlineError::Interrupted) => {
                text.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(no_terminal(e)),
        }
        match typed(&text) {
            Typed::More => continue,
            Typed::Nothing => {}
            Typed::Help => run::say(&format!("{HELP}\n")),
            Typed::Exit => return Ok(()),
            Typed::Run(statements) => {
                let _ = editor.add_history_entry(text.trim());
                if let Some(file) = &history {
                    // A history that can not be written must not stop the work.
                    let _ = editor.append_history(file);
                }
                for statement in statements {
                    let (statement, show) = run::vertical(statement, &show);
                    let terminal = Terminal { summary: true };
                    let ran = runtime.block_on(run::statement(
                        &mut session,
                        statement,
                        &show,
                        Input::None,
                        &terminal,
                    ));
                    if let Err(failure) = ran {
                        if let Some(text) = failure.text() {
                            eprintln!("{text}");
                        }
                        break;
                    }
                }
            }
        }
        text.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_statement_is_complete() {
        let cases = [
            ("", "nothing"),
            ("  \n", "nothing"),
            ("exit", "exit"),
            ("quit;", "exit"),
            ("help", "help"),
            ("SELECT 1", "more"),
            ("SELECT ';'", "more"),
            ("SELECT 1;", "run 1"),
            ("SELECT 1; SELECT 2;", "run 2"),
            ("SELECT 1; SELECT 2", "more"),
            ("SELECT 1; -- done", "run 1"),
            ("SELECT 1 \\G", "run 1"),
        ];
        for (text, expected) in cases {
            let got = match typed(text) {
                Typed::Nothing => "nothing".into(),
                Typed::Help => "help".into(),
                Typed::Exit => "exit".into(),
                Typed::More => "more".into(),
                Typed::Run(all) => format!("run {}", all.len()),
            };
            assert_eq!(got, expected, "{text:?}");
        }
    }
}
