//! SETTINGS of an external stream, taken one by one; what is left over is unknown.

use std::collections::BTreeMap;
use weir_base::Code;
use weir_base::error::did_you_mean;
use weir_plan::StreamError;

pub(crate) fn bad(message: impl Into<String>) -> StreamError {
    StreamError { code: Code::BadArguments, message: message.into() }
}

/// Settings by name that nobody has asked for yet.
pub(crate) struct Settings<'a> {
    kind: &'static str,
    known: &'static [&'static str],
    left: BTreeMap<&'a str, &'a str>,
}

impl<'a> Settings<'a> {
    /// Takes those whose names begin with `prefix`, by what comes behind it.
    pub fn prefixed(
        all: &BTreeMap<String, String>,
        prefix: &str,
    ) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let (mut taken, mut left) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in all {
            match name.strip_prefix(prefix) {
                Some(rest) => taken.insert(rest.to_owned(), value.clone()),
                None => left.insert(name.clone(), value.clone()),
            };
        }
        (taken, left)
    }

    /// # Errors
    /// 115 for a name that is not `known`.
    pub fn new(
        kind: &'static str,
        known: &'static [&'static str],
        all: &'a BTreeMap<String, String>,
    ) -> Result<Self, StreamError> {
        if let Some(name) = all.keys().find(|name| !known.contains(&name.as_str())) {
            let hint = did_you_mean(name, known.iter().copied());
            return Err(StreamError {
                code: Code::UnknownSetting,
                message: format!("an external stream of type '{kind}' has no setting {name}{hint}"),
            });
        }
        Ok(Settings { kind, known, left: all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect() })
    }

    pub fn text(&mut self, name: &'static str) -> Option<String> {
        debug_assert!(self.known.contains(&name), "{name} is in no list of settings");
        self.left.remove(name).filter(|v| !v.is_empty()).map(str::to_owned)
    }

    /// # Errors
    /// 36 where it is missing.
    pub fn needed(&mut self, name: &'static str, example: &str) -> Result<String, StreamError> {
        let kind = self.kind;
        self.text(name).ok_or_else(|| {
            bad(format!("an external stream of type '{kind}' needs {name}, for example {name}='{example}'"))
        })
    }

    /// # Errors
    /// 36 for what is neither yes nor no.
    pub fn flag(&mut self, name: &'static str) -> Result<bool, StreamError> {
        match self.text(name).as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(bad(format!("{name} is '{other}', it can be true or false"))),
        }
    }

    /// # Errors
    /// 36 for what is no number.
    pub fn number(&mut self, name: &'static str, default: u64) -> Result<u64, StreamError> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| bad(format!("{name} is '{text}', it must be a whole number")))
            }
        }
    }

    /// One of some words, in any case.
    ///
    /// # Errors
    /// 36 for another.
    pub fn word(
        &mut self,
        name: &'static str,
        words: &[&'static str],
    ) -> Result<Option<&'static str>, StreamError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match words.iter().find(|w| w.eq_ignore_ascii_case(&text)) {
            Some(word) => Ok(Some(word)),
            None => Err(bad(format!("{name} is '{text}', it can be {}", words.join(", ")))),
        }
    }
}
