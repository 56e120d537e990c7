//! What is wrong with a value, before the row is known.

use crate::FormatError;

/// Offending text is shown up to this many characters.
const SHOWN_CHARS_MAX: usize = 100;

/// A value that does not parse. Boxed: readers return it from hot loops.
#[derive(Debug)]
pub(crate) struct Fault(Box<Body>);

#[derive(Debug)]
struct Body {
    what: String,
    text: String,
    column: Option<String>,
}

impl Fault {
    #[cold]
    pub fn new(what: impl Into<String>, text: &[u8]) -> Fault {
        Fault(Box::new(Body { what: what.into(), text: shown(text), column: None }))
    }
    /// Names the column, unless a deeper reader did.
    #[cold]
    pub fn in_column(mut self, name: &str) -> Fault {
        self.0.column.get_or_insert_with(|| name.to_owned());
        self
    }
    #[cold]
    pub fn at_row(self, row: u64) -> FormatError {
        FormatError::Parse { row, column: self.0.column, what: self.0.what, text: self.0.text }
    }
}

fn shown(text: &[u8]) -> String {
    let cut = &text[..text.len().min(4 * SHOWN_CHARS_MAX)];
    String::from_utf8_lossy(cut).chars().take(SHOWN_CHARS_MAX).collect()
}

/// Why a reader stopped before the end of its value.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The input ends here; with more bytes it may go on.
    More,
    Bad(Fault),
}

impl From<Fault> for Stop {
    fn from(f: Fault) -> Self {
        Stop::Bad(f)
    }
}

impl Stop {
    #[cold]
    pub fn bad(what: impl Into<String>, text: &[u8]) -> Stop {
        Stop::Bad(Fault::new(what, text))
    }
}
