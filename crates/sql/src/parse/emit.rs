//! What stands behind EMIT, in both grammars.
//!
//! ```text
//! [STREAM | CHANGELOG]
//! { AFTER WATERMARK | AFTER WINDOW CLOSE | PERIODIC i [REPEAT] | ON UPDATE [WITH BATCH i] | PER EVENT
//! | AFTER KEY EXPIRE [IDENTIFIED BY t] WITH [ONLY] MAXSPAN i [AND TIMEOUT i]
//! | AFTER SESSION CLOSE [IDENTIFIED BY (t[, start, end])] WITH [ONLY] MAXSPAN i [AND TIMEOUT i] }
//! [WITH DELAY i] [[AND] TIMEOUT i] [[AND] LAST i [ON PROCTIME]]
//! ```
//! `PERIODIC i ON UPDATE` is `ON UPDATE WITH BATCH i`. What can not go together whatever the query
//! is refused here, with the reason.
//!
//! Not here: whether a policy means something for a query (`stream`), what `IDENTIFIED BY` names.

use super::lex;
use weir_base::{Error, err};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// `AFTER WINDOW CLOSE`, `AFTER WATERMARK`.
    WindowClose,
    Periodic {
        every_ns: i64,
        repeat: bool,
    },
    OnUpdate {
        every_ns: Option<i64>,
    },
    /// A result for each input row.
    PerEvent,
    /// `AFTER KEY EXPIRE`.
    KeyExpire(Life),
    /// `AFTER SESSION CLOSE`.
    SessionClose(Life),
}

/// How long a key, or a session of it, lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// `IDENTIFIED BY` as text: the time; of a session also what opens and what closes it.
    pub by: Vec<String>,
    pub span_max_ns: i64,
    /// Only those leave that reach the span.
    pub only: bool,
    pub timeout_ns: Option<i64>,
}

/// `LAST i [ON PROCTIME]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    pub ns: i64,
    pub by_processing_time: bool,
}

/// An EMIT clause.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Emit {
    pub changelog: bool,
    /// `None` = what the query's kind does by itself.
    pub policy: Option<Policy>,
    /// `WITH DELAY`.
    pub delay_ns: Option<i64>,
    /// `TIMEOUT` of windows.
    pub timeout_ns: Option<i64>,
    pub last: Option<Last>,
}

impl Policy {
    /// As users write it.
    pub fn name(&self) -> &'static str {
        match self {
            Policy::WindowClose => "AFTER WINDOW CLOSE",
            Policy::Periodic { .. } => "PERIODIC",
            Policy::OnUpdate { .. } => "ON UPDATE",
            Policy::PerEvent => "PER EVENT",
            Policy::KeyExpire(_) => "AFTER KEY EXPIRE",
            Policy::SessionClose(_) => "AFTER SESSION CLOSE",
        }
    }
}

struct Words<'a> {
    text: &'a str,
    words: Vec<&'a str>,
    at: usize,
}

/// Words at white space; what stands in parentheses is one.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut from, mut depth, mut quote) = (None, 0usize, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '(') if depth == 0 && from.is_some_and(|f| is_word(&text[f..i])) => {
                words.push(&text[from.take().unwrap_or(i)..i]);
            }
            _ => {}
        }
        if quote.is_none() {
            depth = match c {
                '(' => depth + 1,
                ')' => depth.saturating_sub(1),
                _ => depth,
            };
        }
        if c.is_whitespace() && depth == 0 && quote.is_none() {
            if let Some(from) = from.take() {
                words.push(&text[from..i]);
            }
        } else {
            from = from.or(Some(i));
        }
    }
    words.extend(from.map(|from| &text[from..]));
    words
}

/// A keyword that a parenthesis may follow without a space.
fn is_word(text: &str) -> bool {
    text.eq_ignore_ascii_case("BY")
}

/// The expressions of `(a, b(c, d))`.
fn listed(text: &str) -> Vec<String> {
    let inner = text.strip_prefix('(').and_then(|t| t.strip_suffix(')'));
    let Some(inner) = inner else { return vec![text.to_owned()] };
    let (mut all, mut from, mut depth, mut quote) = (Vec::new(), 0, 0usize, None);
    for (i, c) in inner.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, ')' | ']') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                all.push(inner[from..i].trim().to_owned());
                from = i + 1;
            }
            _ => {}
        }
    }
    all.push(inner[from..].trim().to_owned());
    all
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Words { text, words: split(text), at: 0 }
    }
    fn is(&self, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(i, w)| self.words.get(self.at + i).is_some_and(|h| h.eq_ignore_ascii_case(w)))
    }
    fn take(&mut self, words: &[&str]) -> bool {
        let found = self.is(words);
        if found {
            self.at += words.len();
        }
        found
    }
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += usize::from(word.is_some());
        word
    }
    fn wrong(&self, wanted: &str) -> Error {
        let found = self.words.get(self.at).copied().unwrap_or("its end");
        err!(Syntax, "EMIT {} wants {wanted}, not {found}", self.text)
    }

    /// `5s`, `INTERVAL 5 SECOND`, `INTERVAL '5' SECOND`; nanoseconds.
    fn interval(&mut self) -> Result<i64, Error> {
        let long = self.take(&["INTERVAL"]);
        let wrong = self.wrong("an interval such as 5s");
        let number = self.next().ok_or_else(|| wrong.clone())?.trim_matches('\'');
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = number.split_at(digits);
        let unit = if unit.is_empty() && long {
            let word = self.next().ok_or_else(|| wrong.clone())?;
            let singular = word.strip_suffix(['s', 'S']).unwrap_or(word);
            lex::UNITS.iter().copied().find(|u| u.keyword.eq_ignore_ascii_case(singular))
        } else {
            lex::unit(unit)
        };
        let unit = unit.ok_or_else(|| wrong.clone())?;
        let n: i64 = number.parse().map_err(|_| wrong)?;
        let nanos = unit.nanos.ok_or_else(|| {
            err!(
                BadArguments,
                "EMIT {}: {} is no fixed length; use units up to weeks",
                self.text,
                unit.keyword
            )
        })?;
        match n.checked_mul(nanos) {
            Some(ns) if ns > 0 => Ok(ns),
            _ => Err(err!(
                BadArguments,
                "EMIT {}: the interval must be more than 0 and less than 292 years",
                self.text
            )),
        }
    }
}

impl Words<'_> {
    /// `[IDENTIFIED BY …] WITH [ONLY] MAXSPAN i [AND TIMEOUT i]`; `sessions` may say what opens and
    /// closes them.
    fn life(&mut self, sessions: bool) -> Result<Life, Error> {
        let mut by = Vec::new();
        if self.take(&["IDENTIFIED", "BY"]) {
            let wrong = self.wrong(if sessions { "(time) or (time, start, end)" } else { "a time" });
            by = listed(self.next().ok_or_else(|| wrong.clone())?);
            let fits = if sessions { matches!(by.len(), 1 | 3) } else { by.len() == 1 };
            if !fits || by.iter().any(String::is_empty) {
                return Err(wrong);
            }
        }
        if !self.take(&["WITH"]) {
            return Err(self.wrong("WITH [ONLY] MAXSPAN and an interval"));
        }
        let only = self.take(&["ONLY"]);
        if !self.take(&["MAXSPAN"]) {
            return Err(self.wrong("MAXSPAN and an interval"));
        }
        let span_max_ns = self.interval()?;
        let timeout_ns = if self.take(&["AND", "TIMEOUT"]) { Some(self.interval()?) } else { None };
        Ok(Life { by, span_max_ns, only, timeout_ns })
    }
}

/// Reads the text behind EMIT.
///
/// # Errors
/// Code 62 for what is no policy, 80 for parts that exclude each other.
pub fn emit(text: &str) -> Result<Emit, Error> {
    let mut words = Words::new(text);
    let mut emit = Emit::default();
    let twice = || err!(IncorrectQuery, "EMIT {text} names two policies; a query takes one");
    let again = |what: &str| err!(IncorrectQuery, "EMIT {text} gives {what} twice");
    if !words.take(&["STREAM"]) {
        emit.changelog = words.take(&["CHANGELOG"]);
    }
    while words.at < words.words.len() {
        words.take(&["AND"]);
        if words.take(&["PERIODIC"]) {
            let every_ns = words.interval()?;
            let repeat = words.take(&["REPEAT"]);
            match emit.policy {
                None => emit.policy = Some(Policy::Periodic { every_ns, repeat }),
                Some(Policy::OnUpdate { every_ns: None }) if !repeat => {
                    emit.policy = Some(Policy::OnUpdate { every_ns: Some(every_ns) });
                }
                Some(_) => return Err(twice()),
            }
        } else if words.take(&["ON", "UPDATE"]) {
            let every_ns = if words.take(&["WITH", "BATCH"]) { Some(words.interval()?) } else { None };
            emit.policy = match (&emit.policy, every_ns) {
                (None, _) => Some(Policy::OnUpdate { every_ns }),
                (Some(Policy::Periodic { every_ns, repeat: false }), None) => {
                    Some(Policy::OnUpdate { every_ns: Some(*every_ns) })
                }
                _ => return Err(twice()),
            };
        } else if let Some(policy) = plain_policy(&mut words)? {
            if emit.policy.replace(policy).is_some() {
                return Err(twice());
            }
        } else if words.take(&["WITH", "DELAY"]) || words.take(&["DELAY"]) {
            if emit.delay_ns.replace(words.interval()?).is_some() {
                return Err(again("WITH DELAY"));
            }
        } else if words.take(&["TIMEOUT"]) {
            if emit.timeout_ns.replace(words.interval()?).is_some() {
                return Err(again("TIMEOUT"));
            }
        } else if words.take(&["LAST"]) {
            let ns = words.interval()?;
            let by_processing_time = words.take(&["ON", "PROCTIME"]);
            if emit.last.replace(Last { ns, by_processing_time }).is_some() {
                return Err(again("LAST"));
            }
        } else {
            return Err(words.wrong(
                "AFTER WINDOW CLOSE, PERIODIC, ON UPDATE, PER EVENT, AFTER KEY EXPIRE, AFTER SESSION CLOSE, \
                 CHANGELOG, WITH DELAY, TIMEOUT or LAST",
            ));
        }
    }
    agrees(&emit)?;
    Ok(emit)
}

/// A policy that stands by itself.
fn plain_policy(words: &mut Words<'_>) -> Result<Option<Policy>, Error> {
    Ok(Some(if words.take(&["AFTER", "WATERMARK"]) || words.take(&["AFTER", "WINDOW", "CLOSE"]) {
        Policy::WindowClose
    } else if words.take(&["PER", "EVENT"]) {
        Policy::PerEvent
    } else if words.take(&["AFTER", "KEY", "EXPIRE"]) {
        Policy::KeyExpire(words.life(false)?)
    } else if words.take(&["AFTER", "SESSION", "CLOSE"]) {
        Policy::SessionClose(words.life(true)?)
    } else {
        return Ok(None);
    }))
}

/// Parts that can not go together, whatever the query is.
fn agrees(emit: &Emit) -> Result<(), Error> {
    let refuse = |why: &str| Err(err!(IncorrectQuery, "{why}"));
    let Some(policy) = &emit.policy else { return Ok(()) };
    let name = policy.name();
    let lives = matches!(policy, Policy::KeyExpire(_) | Policy::SessionClose(_));
    if emit.changelog {
        match policy {
            Policy::Periodic { repeat: true, .. } => {
                return refuse("EMIT CHANGELOG tells changes, there is none to REPEAT; leave REPEAT out");
            }
            Policy::WindowClose | Policy::PerEvent | Policy::KeyExpire(_) | Policy::SessionClose(_) => {
                return refuse(&format!(
                    "EMIT CHANGELOG and {name} exclude each other: such rows are never taken back; leave CHANGELOG out"
                ));
            }
            Policy::Periodic { .. } | Policy::OnUpdate { .. } => {}
        }
    }
    if emit.last.is_some() {
        match policy {
            Policy::WindowClose | Policy::Periodic { repeat: false, .. } => {}
            _ => {
                return refuse(&format!(
                    "EMIT LAST gives the last i every so often; {name} and REPEAT do not go with it, PERIODIC does"
                ));
            }
        }
    }
    if emit.delay_ns.is_some() && (lives || *policy == Policy::PerEvent) {
        return refuse(&format!("{name} waits for no late row; leave WITH DELAY out"));
    }
    if emit.timeout_ns.is_some() && lives {
        return refuse(&format!("TIMEOUT of {name} is written AND TIMEOUT, right behind MAXSPAN"));
    }
    if emit.timeout_ns.is_some() && *policy == Policy::PerEvent {
        return refuse("PER EVENT holds nothing back that a TIMEOUT could send; leave TIMEOUT out");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::Code;

    const S: i64 = 1_000_000_000;

    #[test]
    fn policies_of_both_grammars() {
        let periodic = |every_ns, repeat| Some(Policy::Periodic { every_ns, repeat });
        let update = |every_ns| Some(Policy::OnUpdate { every_ns });
        let cases = [
            ("PERIODIC 2s", false, periodic(2 * S, false), None),
            ("periodic interval 2 seconds repeat", false, periodic(2 * S, true), None),
            ("PERIODIC INTERVAL '500' MILLISECOND", false, periodic(S / 2, false), None),
            ("ON UPDATE", false, update(None), None),
            ("ON UPDATE WITH BATCH 1s", false, update(Some(S)), None),
            ("PERIODIC 1s ON UPDATE", false, update(Some(S)), None),
            ("ON UPDATE WITH DELAY 3s", false, update(None), Some(3 * S)),
            ("AFTER WATERMARK", false, Some(Policy::WindowClose), None),
            ("STREAM AFTER WINDOW CLOSE WITH DELAY 1s", false, Some(Policy::WindowClose), Some(S)),
            ("CHANGELOG", true, None, None),
            ("CHANGELOG PERIODIC 1m", true, periodic(60 * S, false), None),
            ("PER EVENT", false, Some(Policy::PerEvent), None),
        ];
        for (text, changelog, policy, delay_ns) in cases {
            let wanted = Emit { changelog, policy, delay_ns, ..Emit::default() };
            assert_eq!(emit(text).unwrap(), wanted, "{text}");
        }
        let timed = emit("AFTER WINDOW CLOSE WITH DELAY 1s AND TIMEOUT 3s").unwrap();
        assert_eq!((timed.delay_ns, timed.timeout_ns), (Some(S), Some(3 * S)));
        let last = emit("PERIODIC 5s AND LAST 1h ON PROCTIME").unwrap();
        assert_eq!(last.last, Some(Last { ns: 3_600 * S, by_processing_time: true }));
        let last = emit("LAST INTERVAL 1 DAY").unwrap();
        assert_eq!(last.last, Some(Last { ns: 86_400 * S, by_processing_time: false }));
    }

    #[test]
    fn lives_of_keys_and_sessions() {
        let life = |by: &[&str], only, timeout_ns| Life {
            by: by.iter().map(|b| (*b).to_owned()).collect(),
            span_max_ns: S / 2,
            only,
            timeout_ns,
        };
        let cases = [
            ("AFTER KEY EXPIRE WITH MAXSPAN 500ms", Policy::KeyExpire(life(&[], false, None))),
            (
                "after key expire identified by end_time with only maxspan 500ms and timeout 2s",
                Policy::KeyExpire(life(&["end_time"], true, Some(2 * S))),
            ),
            (
                "AFTER KEY EXPIRE IDENTIFIED BY(`a b`) WITH MAXSPAN 500ms",
                Policy::KeyExpire(life(&["`a b`"], false, None)),
            ),
            (
                "AFTER SESSION CLOSE IDENTIFIED BY (ts, what = 'log in, )', f(a, b) > 1) WITH MAXSPAN 500ms AND TIMEOUT 1s",
                Policy::SessionClose(life(&["ts", "what = 'log in, )'", "f(a, b) > 1"], false, Some(S))),
            ),
            (
                "AFTER SESSION CLOSE IDENTIFIED BY (ts) WITH MAXSPAN 500ms",
                Policy::SessionClose(life(&["ts"], false, None)),
            ),
        ];
        for (text, policy) in cases {
            assert_eq!(emit(text).unwrap().policy, Some(policy), "{text}");
        }
    }

    #[test]
    fn what_is_no_policy_or_excludes_itself() {
        let wrong = [
            ("PERIODIC", Code::Syntax),
            ("PERIODIC 1x", Code::Syntax),
            ("PERIODIC 1M", Code::BadArguments),
            ("PERIODIC 0s", Code::BadArguments),
            ("SOMETIMES", Code::Syntax),
            ("AFTER KEY EXPIRE", Code::Syntax),
            ("AFTER KEY EXPIRE WITH ONLY", Code::Syntax),
            ("AFTER KEY EXPIRE IDENTIFIED BY (a, b) WITH MAXSPAN 1s", Code::Syntax),
            ("AFTER SESSION CLOSE IDENTIFIED BY (a, b) WITH MAXSPAN 1s", Code::Syntax),
            ("AFTER SESSION CLOSE IDENTIFIED BY (a, , b) WITH MAXSPAN 1s", Code::Syntax),
            ("PERIODIC 1s PERIODIC 2s", Code::IncorrectQuery),
            ("PERIODIC 1s REPEAT ON UPDATE", Code::IncorrectQuery),
            ("AFTER WATERMARK ON UPDATE", Code::IncorrectQuery),
            ("PER EVENT ON UPDATE", Code::IncorrectQuery),
            ("AFTER WATERMARK PERIODIC 1s", Code::IncorrectQuery),
            ("ON UPDATE WITH DELAY 1s WITH DELAY 2s", Code::IncorrectQuery),
            ("LAST 1s LAST 2s", Code::IncorrectQuery),
            ("TIMEOUT 1s TIMEOUT 2s", Code::IncorrectQuery),
            ("CHANGELOG PERIODIC 1s REPEAT", Code::IncorrectQuery),
            ("CHANGELOG PER EVENT", Code::IncorrectQuery),
            ("CHANGELOG AFTER WINDOW CLOSE", Code::IncorrectQuery),
            ("CHANGELOG AFTER KEY EXPIRE WITH MAXSPAN 1s", Code::IncorrectQuery),
            ("ON UPDATE LAST 1h", Code::IncorrectQuery),
            ("PERIODIC 1s REPEAT LAST 1h", Code::IncorrectQuery),
            ("PER EVENT LAST 1h", Code::IncorrectQuery),
            ("PER EVENT WITH DELAY 1s", Code::IncorrectQuery),
            ("PER EVENT TIMEOUT 1s", Code::IncorrectQuery),
            ("AFTER KEY EXPIRE WITH MAXSPAN 1s WITH DELAY 1s", Code::IncorrectQuery),
            ("AFTER KEY EXPIRE WITH MAXSPAN 1s TIMEOUT 1s", Code::IncorrectQuery),
        ];
        for (text, code) in wrong {
            assert_eq!(emit(text).map_err(|e| e.code), Err(code), "{text}");
        }
    }
}
