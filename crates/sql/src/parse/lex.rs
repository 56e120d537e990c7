//! Text to tokens: sqlparser's token type, with byte offsets, from our own scanner.
//!
//! Our own, because the dialect has tokens sqlparser's scanner tears apart (`5s`, `t.1`), because
//! clauses are kept as written (byte ranges), and because the scanner must stop in the middle:
//! the data of an INSERT is not SQL and is never read here.
//!
//! Invariants
//! - Every token's `start..end` is a byte range of the text on character boundaries.
//! - Comments and white space give no token.
//! - Time is linear in the bytes read.
//!
//! Not here: what the tokens mean (`rewrite`), where statements end (`split`).

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Word};
use weir_base::{Error, err};

/// A token and where it stands.
#[derive(Debug, Clone)]
pub struct Tok {
    pub kind: Kind,
    /// Byte range in the text.
    pub start: usize,
    pub end: usize,
    /// Line and column of the first character, from 1; columns count characters.
    pub line: u64,
    pub column: u64,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Sql(Token),
    /// `5s`: a number with a unit right behind it.
    Interval {
        count: String,
        unit: Unit,
    },
}

/// Unit of an interval literal. `m` is a minute, `M` a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// As written behind the number.
    pub suffix: &'static str,
    /// The word after `INTERVAL n`.
    pub keyword: &'static str,
    /// Length in nanoseconds; `None` for units of the calendar.
    pub nanos: Option<i64>,
}

pub const UNITS: &[Unit] = &[
    Unit { suffix: "ns", keyword: "NANOSECOND", nanos: Some(1) },
    Unit { suffix: "us", keyword: "MICROSECOND", nanos: Some(1_000) },
    Unit { suffix: "ms", keyword: "MILLISECOND", nanos: Some(1_000_000) },
    Unit { suffix: "s", keyword: "SECOND", nanos: Some(1_000_000_000) },
    Unit { suffix: "m", keyword: "MINUTE", nanos: Some(60_000_000_000) },
    Unit { suffix: "h", keyword: "HOUR", nanos: Some(3_600_000_000_000) },
    Unit { suffix: "d", keyword: "DAY", nanos: Some(86_400_000_000_000) },
    Unit { suffix: "w", keyword: "WEEK", nanos: Some(604_800_000_000_000) },
    Unit { suffix: "M", keyword: "MONTH", nanos: None },
    Unit { suffix: "q", keyword: "QUARTER", nanos: None },
    Unit { suffix: "y", keyword: "YEAR", nanos: None },
];

/// The unit written as `suffix`.
pub fn unit(suffix: &str) -> Option<Unit> {
    UNITS.iter().copied().find(|u| u.suffix == suffix)
}

impl Tok {
    /// The unquoted word here, if it is one.
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Sql(Token::Word(w)) if w.quote_style.is_none() => Some(&w.value),
            _ => None,
        }
    }
    /// Whether this is the unquoted word `upper`, in any case.
    pub fn is(&self, upper: &str) -> bool {
        self.word().is_some_and(|w| w.eq_ignore_ascii_case(upper))
    }
    pub fn is_any(&self, uppers: &[&str]) -> bool {
        self.word().is_some_and(|w| uppers.iter().any(|u| w.eq_ignore_ascii_case(u)))
    }
    pub fn is_token(&self, token: &Token) -> bool {
        matches!(&self.kind, Kind::Sql(t) if t == token)
    }
    /// The identifier here, quoted or not.
    pub fn identifier(&self) -> Option<&str> {
        match &self.kind {
            Kind::Sql(Token::Word(w)) => Some(&w.value),
            _ => None,
        }
    }
    pub fn string(&self) -> Option<&str> {
        match &self.kind {
            Kind::Sql(Token::SingleQuotedString(s)) => Some(s),
            _ => None,
        }
    }
    pub fn opens(&self) -> bool {
        matches!(self.kind, Kind::Sql(Token::LParen | Token::LBracket | Token::LBrace))
    }
    pub fn closes(&self) -> bool {
        matches!(self.kind, Kind::Sql(Token::RParen | Token::RBracket | Token::RBrace))
    }
    /// `token` at this token's place, so that errors keep their position.
    pub fn with(&self, token: Token) -> TokenWithSpan {
        let at = Location::new(self.line, self.column);
        TokenWithSpan::new(token, Span::new(at, at))
    }
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        err!(Syntax, "{message}").at(self.line, self.column)
    }
}

/// A word that is never a keyword to sqlparser, printed without quotes.
pub fn plain_word(value: &str) -> Token {
    Token::Word(Word { value: value.to_string(), quote_style: None, keyword: Keyword::NoKeyword })
}

/// Scans one text from front to back.
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u64,
    column: u64,
    /// Where the last token ended, if a `.1` right behind it is a tuple access.
    postfix_end: Option<usize>,
    /// The next token is the index of a tuple access.
    pending_index: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Lexer { text, at: 0, line: 1, column: 1, postfix_end: None, pending_index: false }
    }
    /// Byte offset of the next character to read.
    pub fn offset(&self) -> usize {
        self.at
    }
    /// Line and column of the next character to read.
    pub fn position(&self) -> (u64, u64) {
        (self.line, self.column)
    }
    /// Goes on at byte `to`, which must not lie before the current offset.
    pub fn skip_to(&mut self, to: usize) {
        while self.at < to && self.bump().is_some() {}
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }
    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }
    fn peek_second(&self) -> Option<char> {
        self.rest().chars().nth(1)
    }
    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }
    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let from = self.at;
        while self.peek().is_some_and(&keep) {
            self.bump();
        }
        &self.text[from..self.at]
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) -> Result<(), Error> {
        loop {
            match self.peek() {
                Some(c) if c.is_whitespace() || c == '\u{feff}' => {
                    self.bump();
                }
                Some('-') if self.rest().starts_with("--") => {
                    self.take_while(|c| c != '\n');
                }
                Some('#') if self.rest().starts_with("#!") || self.rest().starts_with("# ") => {
                    self.take_while(|c| c != '\n');
                }
                Some('/') if self.rest().starts_with("/*") => self.skip_block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), Error> {
        let (line, column) = self.position();
        let mut open = 0u64;
        loop {
            if self.rest().starts_with("/*") {
                open += 1;
                self.bump();
                self.bump();
            } else if self.rest().starts_with("*/") {
                open -= 1;
                self.bump();
                self.bump();
                if open == 0 {
                    return Ok(());
                }
            } else if self.bump().is_none() {
                return Err(err!(Syntax, "comment opened with /* is never closed with */").at(line, column));
            }
        }
    }

    /// The next token; `None` at the end of the text.
    ///
    /// # Errors
    /// Code 62 at an open string or comment, a malformed number, a character of no token.
    pub fn next_token(&mut self) -> Result<Option<Tok>, Error> {
        self.skip_blank()?;
        let (start, line, column) = (self.at, self.line, self.column);
        let Some(c) = self.peek() else { return Ok(None) };
        let after_postfix = self.postfix_end == Some(start);
        let kind = match c {
            '\'' => Kind::Sql(Token::SingleQuotedString(self.quoted('\'', "string")?)),
            '"' | '`' => Kind::Sql(Token::make_word(&self.quoted(c, "identifier")?, Some(c))),
            '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' => {
                return Err(err!(Syntax, "typographic quote {c}: write ' around strings").at(line, column));
            }
            '$' => self.heredoc(line, column)?,
            '.' if after_postfix && self.peek_second().is_some_and(|d| d.is_ascii_digit()) => {
                self.bump();
                let tok = Tok { kind: Kind::Sql(Token::Period), start, end: self.at, line, column };
                self.postfix_end = None;
                self.pending_index = true;
                return Ok(Some(tok));
            }
            _ if self.pending_index => {
                self.pending_index = false;
                let digits = self.take_while(|d| d.is_ascii_digit());
                Kind::Sql(Token::make_word(digits, Some('"')))
            }
            '0'..='9' => self.number(line, column)?,
            '.' if self.peek_second().is_some_and(|d| d.is_ascii_digit()) => self.number(line, column)?,
            c if is_word_start(c) => Kind::Sql(Token::make_word(self.take_while(is_word_part), None)),
            _ => Kind::Sql(self.operator(line, column)?),
        };
        let postfix = match &kind {
            Kind::Sql(Token::Word(w)) => w.quote_style.is_some() || !super::words::wants_operand(&w.value),
            Kind::Sql(Token::RParen | Token::RBracket) => true,
            _ => false,
        };
        self.postfix_end = postfix.then_some(self.at);
        Ok(Some(Tok { kind, start, end: self.at, line, column }))
    }

    /// A quoted string or identifier, unescaped: `''` and backslash escapes.
    fn quoted(&mut self, quote: char, what: &str) -> Result<String, Error> {
        let (line, column) = self.position();
        self.bump();
        let mut bytes = Vec::new();
        let mut buffer = [0u8; 4];
        loop {
            match self.bump() {
                None => return Err(err!(Syntax, "{what} is never closed with {quote}").at(line, column)),
                Some(c) if c == quote => {
                    if self.peek() != Some(quote) {
                        break;
                    }
                    self.bump();
                    bytes.push(quote as u8);
                }
                Some('\\') => match self.bump() {
                    None => {}
                    Some('n') => bytes.push(b'\n'),
                    Some('t') => bytes.push(b'\t'),
                    Some('r') => bytes.push(b'\r'),
                    Some('0') => bytes.push(0),
                    Some('a') => bytes.push(7),
                    Some('b') => bytes.push(8),
                    Some('e') => bytes.push(27),
                    Some('f') => bytes.push(12),
                    Some('v') => bytes.push(11),
                    Some('x') => {
                        let hex: String = self.rest().chars().take(2).collect();
                        let byte = (hex.len() == 2).then(|| u8::from_str_radix(&hex, 16).ok()).flatten();
                        let Some(byte) = byte else {
                            return Err(
                                err!(Syntax, "\\x wants two hexadecimal digits").at(self.line, self.column)
                            );
                        };
                        self.bump();
                        self.bump();
                        bytes.push(byte);
                    }
                    Some(c @ ('\\' | '\'' | '"' | '`' | '/' | '=')) => bytes.push(c as u8),
                    // LIKE patterns and regular expressions keep their own escapes.
                    Some(c) => {
                        bytes.push(b'\\');
                        bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                    }
                },
                Some(c) => bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
            }
        }
        if what == "identifier" && bytes.is_empty() {
            return Err(err!(Syntax, "empty identifier").at(line, column));
        }
        String::from_utf8(bytes)
            .map_err(|_| err!(Syntax, "{what} is not UTF-8 after its \\x escapes").at(line, column))
    }

    /// `$$text$$` or `$tag$text$tag$`.
    fn heredoc(&mut self, line: u64, column: u64) -> Result<Kind, Error> {
        let rest = self.rest();
        let tag_end = rest[1..].find(|c: char| !is_word_part(c) || c == '$').map(|n| n + 1);
        let Some(tag_end) = tag_end.filter(|&n| rest[n..].starts_with('$')) else {
            return Err(
                err!(Syntax, "unexpected $: a heredoc is $$text$$ or $tag$text$tag$").at(line, column)
            );
        };
        let tag = &rest[..=tag_end];
        let Some(length) = rest[tag.len()..].find(tag) else {
            return Err(err!(Syntax, "heredoc is never closed with {tag}").at(line, column));
        };
        let content = rest[tag.len()..tag.len() + length].to_string();
        self.skip_to(self.at + 2 * tag.len() + length);
        Ok(Kind::Sql(Token::SingleQuotedString(content)))
    }

    fn number(&mut self, line: u64, column: u64) -> Result<Kind, Error> {
        let from = self.at;
        let rest = self.rest();
        for (prefix, radix) in [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2)] {
            if rest.starts_with(prefix) && rest[2..].starts_with(|c: char| c.is_digit(radix)) {
                self.bump();
                self.bump();
                let digits = self.take_while(|c| c.is_digit(radix) || c == '_').replace('_', "");
                self.no_word_follows(from, line, column)?;
                let value = u128::from_str_radix(&digits, radix).map_err(|_| {
                    err!(Syntax, "number {prefix}{digits} has more than 128 bits").at(line, column)
                })?;
                return Ok(Kind::Sql(Token::Number(value.to_string(), false)));
            }
        }
        let digit = |c: char| c.is_ascii_digit() || c == '_';
        let mut text = self.take_while(digit).replace('_', "");
        let mut whole = true;
        if self.peek() == Some('.') && self.peek_second() != Some('.') {
            whole = false;
            text.push('.');
            self.bump();
            text.push_str(&self.take_while(digit).replace('_', ""));
        }
        let exponent = self.rest().strip_prefix(['e', 'E']);
        if exponent.is_some_and(|e| {
            e.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit())
                && e.chars().take_while(|c| matches!(c, '+' | '-')).count() <= 1
        }) {
            text.push('e');
            self.bump();
            if let Some(sign @ ('+' | '-')) = self.peek() {
                text.push(sign);
                self.bump();
            }
            text.push_str(self.take_while(|c| c.is_ascii_digit()));
        } else if whole && self.peek().is_some_and(is_word_part) {
            let suffix = self.take_while(is_word_part);
            return match unit(suffix) {
                Some(unit) => Ok(Kind::Interval { count: text, unit }),
                None => Err(err!(
                    Syntax,
                    "malformed number {}: an interval ends in one of ns us ms s m h d w M q y, a name starts with a letter",
                    &self.text[from..self.at]
                )
                .at(line, column)),
            };
        }
        self.no_word_follows(from, line, column)?;
        Ok(Kind::Sql(Token::Number(text, false)))
    }

    fn no_word_follows(&mut self, from: usize, line: u64, column: u64) -> Result<(), Error> {
        if self.peek().is_some_and(is_word_part) {
            self.take_while(is_word_part);
            return Err(err!(Syntax, "malformed number {}", &self.text[from..self.at]).at(line, column));
        }
        Ok(())
    }

    fn operator(&mut self, line: u64, column: u64) -> Result<Token, Error> {
        const OPERATORS: &[(&str, Token)] = &[
            ("<=>", Token::Spaceship),
            ("::", Token::DoubleColon),
            ("->", Token::Arrow),
            ("=>", Token::RArrow),
            ("==", Token::Eq),
            ("!=", Token::Neq),
            ("<>", Token::Neq),
            ("<=", Token::LtEq),
            (">=", Token::GtEq),
            ("||", Token::StringConcat),
            ("=", Token::Eq),
            ("<", Token::Lt),
            (">", Token::Gt),
            ("+", Token::Plus),
            ("-", Token::Minus),
            ("\u{2212}", Token::Minus),
            ("*", Token::Mul),
            ("/", Token::Div),
            ("%", Token::Mod),
            (",", Token::Comma),
            (".", Token::Period),
            (":", Token::Colon),
            (";", Token::SemiColon),
            ("(", Token::LParen),
            (")", Token::RParen),
            ("[", Token::LBracket),
            ("]", Token::RBracket),
            ("{", Token::LBrace),
            ("}", Token::RBrace),
            ("?", Token::Char('?')),
        ];
        for (text, token) in OPERATORS {
            if self.rest().starts_with(text) {
                self.skip_to(self.at + text.len());
                return Ok(token.clone());
            }
        }
        let c = self.peek().unwrap_or('\0');
        Err(err!(Syntax, "unexpected character {c:?}").at(line, column))
    }
}

fn is_word_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn is_word_part(c: char) -> bool {
    c == '_' || c == '$' || c.is_alphanumeric()
}
