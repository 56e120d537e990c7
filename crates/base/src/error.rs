//! The error every door shows: a ClickHouse-compatible code, its symbolic name and a
//! message that names the thing and the remedy.
//!
//! Crates below the engine have exact, typed errors of their own and convert at their
//! border; protocols map [`Code`] and [`ErrorKind`], never message text.

use std::fmt;

/// What the caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong; the same request fails again.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// Who asks may not do this, or did not prove who they are.
    Denied,
    /// Not now: a limit, a full disk, a stopped shard. Nothing is wrong with the request.
    Unavailable,
    /// The caller or an operator ended it.
    Cancelled,
    /// A stored byte is wrong; the message names file and offset.
    Corrupt,
    /// A bug in Weir.
    Internal,
}

macro_rules! codes {
    ($($name:ident = $number:literal $symbol:literal $kind:ident $http:literal;)*) => {
        /// Error codes in use, numbered as ClickHouse numbers them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($name,)* }
        impl Code {
            /// Every code, for tables and documentation.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];
            /// The number clients know, for example 60.
            pub const fn number(self) -> i32 { match self { $(Code::$name => $number,)* } }
            /// The symbolic name, for example `UNKNOWN_TABLE`.
            pub const fn symbol(self) -> &'static str { match self { $(Code::$name => $symbol,)* } }
            pub const fn kind(self) -> ErrorKind { match self { $(Code::$name => ErrorKind::$kind,)* } }
            /// The HTTP status under which the error leaves.
            pub const fn http_status(self) -> u16 { match self { $(Code::$name => $http,)* } }
        }
    };
}

codes! {
    CannotParseText = 6 "CANNOT_PARSE_TEXT" Invalid 400;
    CannotParseInput = 27 "CANNOT_PARSE_INPUT_ASSERTION_FAILED" Invalid 400;
    CannotReadAllData = 33 "CANNOT_READ_ALL_DATA" Invalid 400;
    BadArguments = 36 "BAD_ARGUMENTS" Invalid 400;
    NumberOfArguments = 42 "NUMBER_OF_ARGUMENTS_DOESNT_MATCH" Invalid 400;
    IllegalTypeOfArgument = 43 "ILLEGAL_TYPE_OF_ARGUMENT" Invalid 400;
    UnknownFunction = 46 "UNKNOWN_FUNCTION" NotFound 404;
    UnknownIdentifier = 47 "UNKNOWN_IDENTIFIER" NotFound 404;
    NotImplemented = 48 "NOT_IMPLEMENTED" Invalid 501;
    LogicalError = 49 "LOGICAL_ERROR" Internal 500;
    UnknownType = 50 "UNKNOWN_TYPE" NotFound 404;
    TypeMismatch = 53 "TYPE_MISMATCH" Invalid 400;
    StreamAlreadyExists = 57 "TABLE_ALREADY_EXISTS" Invalid 400;
    UnknownStream = 60 "UNKNOWN_TABLE" NotFound 404;
    Syntax = 62 "SYNTAX_ERROR" Invalid 400;
    OutOfBound = 69 "ARGUMENT_OUT_OF_BOUND" Invalid 400;
    CannotConvertType = 70 "CANNOT_CONVERT_TYPE" Invalid 400;
    UnknownFormat = 73 "UNKNOWN_FORMAT" NotFound 404;
    CannotReadFile = 74 "CANNOT_READ_FROM_FILE_DESCRIPTOR" Unavailable 500;
    CannotWriteFile = 75 "CANNOT_WRITE_TO_FILE_DESCRIPTOR" Unavailable 500;
    IncorrectQuery = 80 "INCORRECT_QUERY" Invalid 400;
    UnknownDatabase = 81 "UNKNOWN_DATABASE" NotFound 404;
    DatabaseAlreadyExists = 82 "DATABASE_ALREADY_EXISTS" Invalid 400;
    UnknownSetting = 115 "UNKNOWN_SETTING" NotFound 404;
    IncorrectData = 117 "INCORRECT_DATA" Invalid 400;
    DivisionByZero = 153 "ILLEGAL_DIVISION" Invalid 400;
    TooManyRows = 158 "TOO_MANY_ROWS" Unavailable 400;
    TimeoutExceeded = 159 "TIMEOUT_EXCEEDED" Unavailable 400;
    ReadOnly = 164 "READONLY" Denied 403;
    UnexpectedExpression = 183 "UNEXPECTED_EXPRESSION" Invalid 400;
    UnknownUser = 192 "UNKNOWN_USER" Denied 403;
    TooManyQueries = 202 "TOO_MANY_SIMULTANEOUS_QUERIES" Unavailable 503;
    NetworkError = 210 "NETWORK_ERROR" Unavailable 503;
    NotAnAggregate = 215 "NOT_AN_AGGREGATE" Invalid 400;
    QueryIdInUse = 216 "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING" Invalid 409;
    MemoryLimitExceeded = 241 "MEMORY_LIMIT_EXCEEDED" Unavailable 500;
    NotEnoughSpace = 243 "NOT_ENOUGH_SPACE" Unavailable 507;
    CorruptedData = 246 "CORRUPTED_DATA" Corrupt 500;
    SessionNotFound = 372 "SESSION_NOT_FOUND" NotFound 404;
    SessionIsLocked = 373 "SESSION_IS_LOCKED" Unavailable 423;
    QueryWasCancelled = 394 "QUERY_WAS_CANCELLED" Cancelled 499;
    ThrownByUser = 395 "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO" Invalid 400;
    AccessDenied = 497 "ACCESS_DENIED" Denied 403;
    AggregateThrew = 503 "AGGREGATE_FUNCTION_THROW" Invalid 400;
    AuthenticationFailed = 516 "AUTHENTICATION_FAILED" Denied 401;
    HasDependents = 630 "HAVE_DEPENDENT_OBJECTS" Invalid 400;
    IoError = 1001 "STD_EXCEPTION" Unavailable 500;
    WindowColumnNotInGroupBy = 2002 "WINDOW_COLUMN_NOT_REFERENCED" Invalid 400;
    ResourceNotFound = 2003 "RESOURCE_NOT_FOUND" NotFound 404;
    SequenceOutOfRange = 2500 "SEQUENCE_OUT_OF_RANGE" Invalid 400;
}

/// Where in the query text an error lies; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextPosition {
    pub line: u64,
    pub column: u64,
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// Lowercase start, no full stop; names the thing and what to do.
    pub message: String,
    pub position: Option<TextPosition>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), position: None }
    }
    pub fn at(mut self, line: u64, column: u64) -> Self {
        self.position = Some(TextPosition { line, column });
        self
    }
    pub fn kind(&self) -> ErrorKind {
        self.code.kind()
    }
    /// The text form drivers parse:
    /// `Code: N. DB::Exception: message. (SYMBOL) (version …)`.
    pub fn client_text(&self, version: &str) -> String {
        format!(
            "Code: {}. DB::Exception: {self}. ({}) (version {version})",
            self.code.number(),
            self.code.symbol()
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(TextPosition { line, column }) = self.position {
            write!(f, " (line {line}, column {column})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Builds an [`Error`] with a formatted message: `err!(UnknownStream, "stream {name} does not exist")`.
#[macro_export]
macro_rules! err {
    ($code:ident, $($arg:tt)*) => {
        $crate::error::Error::new($crate::error::Code::$code, format!($($arg)*))
    };
}

/// Offers the candidate nearest to `asked` (edit distance at most a third of its length),
/// as the tail of a message: `; did you mean trades?` or nothing.
pub fn did_you_mean<'a>(asked: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let asked_low = asked.to_lowercase();
    let limit = (asked.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (edit_distance(&asked_low, &c.to_lowercase()), c))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, c)| format!("; did you mean {c}?"))
        .unwrap_or_default()
}

/// Levenshtein distance in characters, two rows of memory.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_what_drivers_parse() {
        let e = err!(UnknownStream, "stream trades does not exist").at(1, 15);
        assert_eq!(
            e.client_text("0.1.0"),
            "Code: 60. DB::Exception: stream trades does not exist (line 1, column 15). (UNKNOWN_TABLE) (version 0.1.0)"
        );
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(did_you_mean("trade", ["trades", "orders"]), "; did you mean trades?");
        assert_eq!(did_you_mean("xyz", ["trades", "orders"]), "");
    }

    #[test]
    fn numbers_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for c in Code::ALL {
            assert!(seen.insert(c.number()), "{c:?}");
        }
    }
}
