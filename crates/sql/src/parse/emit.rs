//! What stands behind EMIT, in both grammars.
//!
//! ```text
//! [STREAM | CHANGELOG] { AFTER WATERMARK | AFTER WINDOW CLOSE | PERIODIC i [REPEAT] | ON UPDATE [WITH BATCH i] }
//!   [WITH DELAY i]      PERIODIC i ON UPDATE is ON UPDATE WITH BATCH i
//! ```
//! The other variants are known and refused by name.
//!
//! Not here: whether a policy means something for a query (`stream`).

use super::lex;
use weir_base::{Error, err};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// An EMIT clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emit {
    pub changelog: bool,
    /// `None` = what the query's kind does by itself.
    pub policy: Option<Policy>,
    /// `WITH DELAY`.
    pub delay_ns: Option<i64>,
}

struct Words<'a> {
    text: &'a str,
    words: Vec<&'a str>,
    at: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Words { text, words: text.split_whitespace().collect(), at: 0 }
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

/// Reads the text behind EMIT.
///
/// # Errors
/// Code 62 for what is no policy, 48 for one that is not done yet, 80 for two that exclude each
/// other.
pub fn emit(text: &str) -> Result<Emit, Error> {
    let mut words = Words::new(text);
    let mut emit = Emit::default();
    let later = |what: &str| err!(NotImplemented, "EMIT {what} is not supported yet");
    let twice = || err!(IncorrectQuery, "EMIT {text} names two policies; a query takes one");
    if !words.take(&["STREAM"]) {
        emit.changelog = words.take(&["CHANGELOG"]);
    }
    while words.at < words.words.len() {
        words.take(&["AND"]);
        if words.take(&["AFTER", "WATERMARK"]) || words.take(&["AFTER", "WINDOW", "CLOSE"]) {
            if emit.policy.replace(Policy::WindowClose).is_some() {
                return Err(twice());
            }
        } else if words.take(&["PERIODIC"]) {
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
            emit.policy = match (emit.policy, every_ns) {
                (None, _) => Some(Policy::OnUpdate { every_ns }),
                (Some(Policy::Periodic { every_ns, repeat: false }), None) => {
                    Some(Policy::OnUpdate { every_ns: Some(every_ns) })
                }
                _ => return Err(twice()),
            };
        } else if words.take(&["WITH", "DELAY"]) || words.take(&["DELAY"]) {
            if emit.delay_ns.replace(words.interval()?).is_some() {
                return Err(err!(IncorrectQuery, "EMIT {text} gives WITH DELAY twice"));
            }
        } else if words.is(&["TIMEOUT"]) {
            return Err(later("TIMEOUT"));
        } else if words.is(&["LAST"]) {
            return Err(later("LAST"));
        } else if words.is(&["PER", "EVENT"]) {
            return Err(later("PER EVENT"));
        } else if words.is(&["AFTER", "KEY", "EXPIRE"]) {
            return Err(later("AFTER KEY EXPIRE"));
        } else if words.is(&["AFTER", "SESSION", "CLOSE"]) {
            return Err(later("AFTER SESSION CLOSE"));
        } else {
            return Err(words.wrong("AFTER WINDOW CLOSE, PERIODIC, ON UPDATE, CHANGELOG or WITH DELAY"));
        }
    }
    Ok(emit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::Code;

    #[test]
    fn policies_of_both_grammars() {
        const S: i64 = 1_000_000_000;
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
        ];
        for (text, changelog, policy, delay_ns) in cases {
            assert_eq!(emit(text).unwrap(), Emit { changelog, policy, delay_ns }, "{text}");
        }
        let wrong = [
            ("PERIODIC", Code::Syntax),
            ("PERIODIC 1x", Code::Syntax),
            ("PERIODIC 1M", Code::BadArguments),
            ("PERIODIC 0s", Code::BadArguments),
            ("SOMETIMES", Code::Syntax),
            ("PERIODIC 1s PERIODIC 2s", Code::IncorrectQuery),
            ("AFTER WATERMARK ON UPDATE", Code::IncorrectQuery),
            ("ON UPDATE WITH DELAY 1s WITH DELAY 2s", Code::IncorrectQuery),
            ("AFTER WINDOW CLOSE WITH DELAY 1s AND TIMEOUT 3s", Code::NotImplemented),
            ("LAST 1h ON PROCTIME", Code::NotImplemented),
            ("PER EVENT", Code::NotImplemented),
        ];
        for (text, code) in wrong {
            assert_eq!(emit(text).unwrap_err().code, code, "{text}");
        }
    }
}
