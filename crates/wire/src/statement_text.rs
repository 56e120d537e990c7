//! Where statements end and where inserted data begins, without parsing SQL.
//!
//! Knows quotes, comments and parentheses; what the words between them mean is the parser's
//! business. Pure.

/// One lexical piece of a text, as far as finding ends needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Word(&'a [u8]),
    /// A quoted run, closed.
    Quoted,
    Byte(u8),
    /// A quote or comment that the text does not close.
    Open,
}

struct Pieces<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Pieces<'a> {
    fn new(text: &'a [u8]) -> Self {
        Pieces { text, at: 0 }
    }

    /// The next piece with its start; spaces and comments are passed over. `at` is its end.
    fn next(&mut self) -> Option<(usize, Piece<'a>)> {
        loop {
            let rest = &self.text[self.at..];
            let first = *rest.first()?;
            let start = self.at;
            if first.is_ascii_whitespace() {
                self.at += 1;
            } else if rest.starts_with(b"--") || first == b'#' {
                match rest.iter().position(|b| *b == b'\n') {
                    Some(n) => self.at += n + 1,
                    None => {
                        self.at = self.text.len();
                        return Some((start, Piece::Open));
                    }
                }
            } else if rest.starts_with(b"/*") {
                match rest.windows(2).skip(2).position(|w| w == b"*/") {
                    Some(n) => self.at += n + 4,
                    None => {
                        self.at = self.text.len();
                        return Some((start, Piece::Open));
                    }
                }
            } else if matches!(first, b'\'' | b'"' | b'`') {
                return Some((start, self.quoted(first)));
            } else if first.is_ascii_alphanumeric() || first == b'_' || first >= 0x80 {
                let n = rest
                    .iter()
                    .position(|b| !(b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80))
                    .unwrap_or(rest.len());
                self.at += n;
                return Some((start, Piece::Word(&rest[..n])));
            } else {
                self.at += 1;
                return Some((start, Piece::Byte(first)));
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Piece<'a> {
        self.at += 1;
        while let Some(b) = self.text.get(self.at) {
            self.at += 1;
            if *b == b'\\' {
                self.at += 1;
            } else if *b == quote {
                if self.text.get(self.at) == Some(&quote) {
                    self.at += 1;
                } else {
                    return Piece::Quoted;
                }
            }
        }
        self.at = self.text.len();
        Piece::Open
    }
}

/// What the beginning of a text says about the statement in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `INSERT … FORMAT name` or `INSERT … VALUES`: the statement is `text[..statement]`, its
    /// data starts at `data`.
    Insert { statement: usize, data: usize },
    /// Not an INSERT that carries data: the whole text is the statement.
    Other,
    /// More text is needed to tell. At the end of the input the whole text is the statement.
    Incomplete,
}

/// Looks for the end of an INSERT's head. `complete`: no more text will come.
pub fn head(text: &[u8], complete: bool) -> Head {
    let mut pieces = Pieces::new(text);
    let unfinished = if complete { Head::Other } else { Head::Incomplete };
    let (_, first) = loop {
        match pieces.next() {
            None => return unfinished,
            Some((_, Piece::Byte(b';'))) => continue,
            Some(p) => break p,
        }
    };
    let Piece::Word(word) = first else {
        return if first == Piece::Open { unfinished } else { Head::Other };
    };
    if !word.eq_ignore_ascii_case(b"insert") {
        let cut_short = pieces.at == text.len() && b"insert".starts_with(&word.to_ascii_lowercase());
        return if cut_short { unfinished } else { Head::Other };
    }
    let mut depth = 0usize;
    // `FORMAT` and `VALUES` may be names: of the target, or of a column in parentheses.
    let mut words_seen = 0usize;
    let mut after_dot = false;
    while let Some((start, piece)) = pieces.next() {
        let dotted = std::mem::take(&mut after_dot);
        match piece {
            Piece::Open => return unfinished,
            Piece::Byte(b'(') => depth += 1,
            Piece::Byte(b')') => depth = depth.saturating_sub(1),
            Piece::Byte(b'.') => after_dot = true,
            Piece::Byte(b';') if depth == 0 => return Head::Other,
            Piece::Quoted => words_seen += 1,
            Piece::Byte(_) => {}
            Piece::Word(word) => {
                if pieces.at == text.len() && !complete {
                    return Head::Incomplete;
                }
                if depth == 0 && !dotted && words_seen >= 1 {
                    let is = |w: &[u8]| word.eq_ignore_ascii_case(w);
                    if is(b"values") {
                        return Head::Insert { statement: pieces.at, data: pieces.at };
                    }
                    if is(b"select") || is(b"with") {
                        return Head::Other;
                    }
                    if is(b"format") {
                        return format_head(text, pieces, complete);
                    }
                }
                let noise =
                    start < text.len() && (word.eq_ignore_ascii_case(b"into") || is_table(word, words_seen));
                if !noise {
                    words_seen += 1;
                }
            }
        }
    }
    unfinished
}

fn is_table(word: &[u8], words_seen: usize) -> bool {
    words_seen == 0 && word.eq_ignore_ascii_case(b"table")
}

/// After `FORMAT`: the name, then data from the next line, or after the spaces that follow.
fn format_head(text: &[u8], mut pieces: Pieces<'_>, complete: bool) -> Head {
    let unfinished = if complete { Head::Other } else { Head::Incomplete };
    let Some((_, Piece::Word(name))) = pieces.next() else { return unfinished };
    if pieces.at == text.len() && !complete {
        return Head::Incomplete;
    }
    if name.eq_ignore_ascii_case(b"values") {
        return Head::Insert { statement: pieces.at, data: pieces.at };
    }
    let statement = pieces.at;
    let mut data = statement;
    let mut ended = false;
    while let Some(b) = text.get(data) {
        match b {
            b' ' | b'\t' | b'\r' => data += 1,
            b';' if !ended => {
                ended = true;
                data += 1;
            }
            b'\n' => return Head::Insert { statement, data: data + 1 },
            _ => return Head::Insert { statement, data },
        }
    }
    // Whether a line end follows is not known yet.
    if complete { Head::Insert { statement, data } } else { Head::Incomplete }
}

/// Splits a script at `;`. Data after `INSERT … FORMAT x` stays with its statement, up to the
/// end of the script; of `VALUES`, up to the `;`. Empty statements are left out.
pub fn split(script: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let mut rest = script;
    loop {
        let end = match head(rest.as_bytes(), true) {
            Head::Insert { data, statement } if has_inline_format(rest, statement, data) => rest.len(),
            _ => end_of_statement(rest).unwrap_or(rest.len()),
        };
        let one = rest[..end].trim();
        if !is_blank(one) {
            statements.push(one);
        }
        match rest.get(end + 1..) {
            Some(tail) => rest = tail,
            None => return statements,
        }
    }
}

fn has_inline_format(text: &str, statement: usize, data: usize) -> bool {
    let word = text[..statement].rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
    !word.eq_ignore_ascii_case("values") && !text[statement..data].contains(';') && data < text.len()
}

/// Where the first `;` outside quotes and comments stands.
pub fn end_of_statement(text: &str) -> Option<usize> {
    let mut pieces = Pieces::new(text.as_bytes());
    while let Some((start, piece)) = pieces.next() {
        if piece == Piece::Byte(b';') {
            return Some(start);
        }
    }
    None
}

/// Only spaces, comments and `;`.
pub fn is_blank(text: &str) -> bool {
    let mut pieces = Pieces::new(text.as_bytes());
    while let Some((start, piece)) = pieces.next() {
        let comment = piece == Piece::Open && !matches!(text.as_bytes()[start], b'\'' | b'"' | b'`');
        if piece != Piece::Byte(b';') && !comment {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        // (name, text, more may come, statement and data, or why not)
        let cases: &[(&str, &str, bool, Result<(&str, &str), Head>)] = &[
            ("a query", "SELECT 1", false, Err(Head::Other)),
            ("nothing yet", "  -- hello", true, Err(Head::Incomplete)),
            ("a word cut short", "INS", true, Err(Head::Incomplete)),
            ("a word that is not", "INX", true, Err(Head::Other)),
            ("next line", "INSERT INTO t FORMAT CSV\n1,2\n", true, Ok(("INSERT INTO t FORMAT CSV", "1,2\n"))),
            (
                "same line",
                "insert into t format JSONEachRow {\"a\":1}",
                true,
                Ok(("insert into t format JSONEachRow", "{\"a\":1}")),
            ),
            ("line end unknown", "INSERT INTO t FORMAT RowBinary", true, Err(Head::Incomplete)),
            (
                "line end never came",
                "INSERT INTO t FORMAT RowBinary",
                false,
                Ok(("INSERT INTO t FORMAT RowBinary", "")),
            ),
            (
                "only one line end is taken",
                "INSERT INTO t FORMAT TSV\n\n1",
                false,
                Ok(("INSERT INTO t FORMAT TSV", "\n1")),
            ),
            (
                "carriage return",
                "INSERT INTO t FORMAT TSV\r\n1",
                false,
                Ok(("INSERT INTO t FORMAT TSV", "1")),
            ),
            (
                "closed by a semicolon",
                "INSERT INTO t FORMAT TSV;\n1",
                false,
                Ok(("INSERT INTO t FORMAT TSV", "1")),
            ),
            (
                "values",
                "INSERT INTO t (a, b) VALUES (1, 'x')",
                true,
                Ok(("INSERT INTO t (a, b) VALUES", " (1, 'x')")),
            ),
            (
                "a column named format",
                "INSERT INTO t (format) VALUES (1)",
                true,
                Ok(("INSERT INTO t (format) VALUES", " (1)")),
            ),
            (
                "a stream named format",
                "INSERT INTO format FORMAT CSV\n1",
                true,
                Ok(("INSERT INTO format FORMAT CSV", "1")),
            ),
            (
                "a database",
                "INSERT INTO d.values VALUES (1)",
                true,
                Ok(("INSERT INTO d.values VALUES", " (1)")),
            ),
            (
                "quoted name",
                "INSERT INTO `a VALUES b` FORMAT CSV\n1",
                true,
                Ok(("INSERT INTO `a VALUES b` FORMAT CSV", "1")),
            ),
            (
                "settings first",
                "INSERT INTO t SETTINGS ack='none' FORMAT CSV\n1",
                true,
                Ok(("INSERT INTO t SETTINGS ack='none' FORMAT CSV", "1")),
            ),
            ("from a query", "INSERT INTO t SELECT 1 FORMAT CSV", false, Err(Head::Other)),
            (
                "comment before",
                "/* x */ INSERT INTO t VALUES(1)",
                true,
                Ok(("/* x */ INSERT INTO t VALUES", "(1)")),
            ),
            ("open quote", "INSERT INTO `abc", true, Err(Head::Incomplete)),
            ("cut in the name", "INSERT INTO t VAL", true, Err(Head::Incomplete)),
            (
                "table word",
                "INSERT INTO TABLE t FORMAT CSV\n1",
                true,
                Ok(("INSERT INTO TABLE t FORMAT CSV", "1")),
            ),
        ];
        for (name, text, more, expected) in cases {
            let found = match head(text.as_bytes(), !more) {
                Head::Insert { statement, data } => Ok((&text[..statement], &text[data..])),
                other => Err(other),
            };
            assert_eq!(&found, expected, "{name}");
        }
    }

    #[test]
    fn every_split_of_the_bytes_finds_the_same_head() {
        let text = "INSERT INTO t (a) /* c */ SETTINGS x='FORMAT' FORMAT CSV\n1,2\n";
        let whole = head(text.as_bytes(), true);
        for n in 0..text.len() {
            let part = head(&text.as_bytes()[..n], false);
            assert!(part == Head::Incomplete || part == whole, "{n}: {part:?}");
        }
    }

    #[test]
    fn scripts_split() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (";; -- x\n;", &[]),
            ("SELECT 1", &["SELECT 1"]),
            ("SELECT ';'; SELECT \"a;b\";", &["SELECT ';'", "SELECT \"a;b\""]),
            ("SELECT 1 -- ;\n; SELECT 2", &["SELECT 1 -- ;", "SELECT 2"]),
            ("INSERT INTO t VALUES ('a;b'); SELECT 1", &["INSERT INTO t VALUES ('a;b')", "SELECT 1"]),
            ("INSERT INTO t FORMAT CSV\na;b\n", &["INSERT INTO t FORMAT CSV\na;b"]),
            ("SELECT 'it''s; fine'; SELECT 'a\\';b'", &["SELECT 'it''s; fine'", "SELECT 'a\\';b'"]),
        ];
        for (script, expected) in cases {
            assert_eq!(&split(script), expected, "{script}");
        }
    }
}
