//! Walks one statement's tokens.
//!
//! Not here: what the statements are (`statement`, `ddl`, `show`).

use super::lex::{Kind, Tok};
use super::{Limits, query};
use crate::ast::{Name, Settings};
use sqlparser::ast::{Expr, Query};
use sqlparser::tokenizer::Token;
use weir_base::{Error, err};

pub struct Cursor<'a> {
    pub text: &'a str,
    pub toks: &'a [Tok],
    pub at: usize,
    pub end: (u64, u64),
    pub limits: &'a Limits,
}

impl<'a> Cursor<'a> {
    pub fn peek(&self) -> Option<&'a Tok> {
        self.toks.get(self.at)
    }
    pub fn peek_nth(&self, n: usize) -> Option<&'a Tok> {
        self.toks.get(self.at + n)
    }
    pub fn done(&self) -> bool {
        self.at >= self.toks.len()
    }
    /// Whether these unquoted words come next.
    pub fn looks(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, w)| self.peek_nth(n).is_some_and(|t| t.is(w)))
    }
    pub fn looks_token(&self, token: &Token) -> bool {
        self.peek().is_some_and(|t| t.is_token(token))
    }
    /// Takes these words if they come next.
    pub fn eat(&mut self, words: &[&str]) -> bool {
        let found = self.looks(words);
        if found {
            self.at += words.len();
        }
        found
    }
    pub fn eat_any(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let found = words.iter().copied().find(|w| self.looks(&[w]))?;
        self.at += 1;
        Some(found)
    }
    pub fn eat_token(&mut self, token: &Token) -> bool {
        let found = self.looks_token(token);
        self.at += usize::from(found);
        found
    }
    pub fn expect(&mut self, words: &[&str]) -> Result<(), Error> {
        if self.eat(words) { Ok(()) } else { Err(self.expected(&words.join(" "))) }
    }
    pub fn expect_token(&mut self, token: &Token) -> Result<(), Error> {
        if self.eat_token(token) { Ok(()) } else { Err(self.expected(&token.to_string())) }
    }
    pub fn expect_end(&self) -> Result<(), Error> {
        if self.done() { Ok(()) } else { Err(self.expected("end of statement")) }
    }

    /// Code 62 at the current token.
    pub fn expected(&self, what: &str) -> Error {
        match self.peek() {
            Some(tok) => tok.error(format!(
                "syntax error near '{}': expected {what}, found {}",
                query::excerpt(&self.text[tok.start..]),
                query::excerpt(&self.text[tok.start..tok.end])
            )),
            None => err!(Syntax, "syntax error: expected {what}, found the end of the statement")
                .at(self.end.0, self.end.1),
        }
    }
    /// Code 48 at the current token (or the end).
    pub fn not_implemented(&self, what: &str) -> Error {
        let (line, column) = self.peek().map_or(self.end, |t| (t.line, t.column));
        err!(NotImplemented, "{what} is not implemented in this version").at(line, column)
    }

    pub fn identifier(&mut self, what: &str) -> Result<String, Error> {
        match self.peek().and_then(Tok::identifier) {
            Some(name) => {
                self.at += 1;
                Ok(name.to_string())
            }
            None => Err(self.expected(what)),
        }
    }
    pub fn string(&mut self, what: &str) -> Result<String, Error> {
        match self.peek().and_then(Tok::string) {
            Some(s) => {
                self.at += 1;
                Ok(s.to_string())
            }
            None => Err(self.expected(what)),
        }
    }
    /// `name` or `database.name`.
    pub fn name(&mut self, what: &str) -> Result<Name, Error> {
        let first = self.identifier(what)?;
        if !self.eat_token(&Token::Period) {
            return Ok(Name { database: None, name: first });
        }
        let name = self.identifier(what)?;
        if self.looks_token(&Token::Period) {
            return Err(self.expected("a name of at most two parts, database.name"));
        }
        Ok(Name { database: Some(first), name })
    }
    pub fn if_exists(&mut self) -> bool {
        self.eat(&["IF", "EXISTS"])
    }
    pub fn if_not_exists(&mut self) -> bool {
        self.eat(&["IF", "NOT", "EXISTS"])
    }

    /// Index behind the token at `i`, jumping over a bracket that opens there.
    pub fn after(&self, i: usize) -> usize {
        let mut depth = 0usize;
        let mut j = i;
        while j < self.toks.len() {
            if self.toks[j].opens() {
                depth += 1;
            } else if self.toks[j].closes() {
                depth = depth.saturating_sub(1);
            }
            j += 1;
            if depth == 0 {
                break;
            }
        }
        j
    }
    /// Takes tokens up to one at this bracket level for which `stop` holds, a closing bracket,
    /// or the end. `stop` sees the index.
    pub fn take_until(&mut self, stop: impl Fn(&Self, usize) -> bool) -> &'a [Tok] {
        let from = self.at;
        while self.at < self.toks.len() && !self.toks[self.at].closes() && !stop(self, self.at) {
            self.at = self.after(self.at);
        }
        &self.toks[from..self.at]
    }
    /// The text of a run of tokens, as written.
    pub fn source(&self, toks: &[Tok]) -> &'a str {
        match (toks.first(), toks.last()) {
            (Some(first), Some(last)) => &self.text[first.start..last.end],
            _ => "",
        }
    }
    /// Position behind a run of tokens that ends before `at`.
    pub fn end_of(&self, toks: &[Tok]) -> (u64, u64) {
        let next =
            toks.last().and_then(|last| self.toks.get(self.toks.partition_point(|t| t.start < last.end)));
        next.map_or(self.end, |t| (t.line, t.column))
    }

    pub fn query_of(&self, toks: &[Tok]) -> Result<Box<Query>, Error> {
        query::query(self.text, toks, self.end_of(toks), self.limits)
    }
    pub fn expression_of(&self, toks: &[Tok]) -> Result<Expr, Error> {
        query::expression(self.text, toks, self.end_of(toks), self.limits)
    }
    /// Checks that the tokens are an expression and gives their text.
    pub fn expression_text(&self, toks: &[Tok], what: &str) -> Result<String, Error> {
        if toks.is_empty() {
            return Err(self.expected(what));
        }
        self.expression_of(toks)?;
        Ok(self.source(toks).to_string())
    }

    /// `k = v, …` behind SETTINGS or SET.
    pub fn settings(&mut self, into: &mut Settings) -> Result<(), Error> {
        loop {
            let mut key = self.identifier("the name of a setting")?;
            while self.eat_token(&Token::Period) {
                key = format!("{key}.{}", self.identifier("the name of a setting")?);
            }
            self.expect_token(&Token::Eq)?;
            let value = self.setting_value()?;
            if into.insert(key.clone(), value).is_some() {
                let tok = &self.toks[self.at - 1];
                return Err(tok.error(format!("setting {key} is given twice")));
            }
            if !self.eat_token(&Token::Comma) {
                return Ok(());
            }
        }
    }
    /// A string, a number or a word, as text.
    pub fn setting_value(&mut self) -> Result<String, Error> {
        let from = self.at;
        let signed = self.eat_token(&Token::Minus) || self.eat_token(&Token::Plus);
        let Some(tok) = self.peek() else { return Err(self.expected("a value")) };
        let text = match &tok.kind {
            Kind::Sql(Token::SingleQuotedString(s)) if !signed => s.clone(),
            Kind::Sql(Token::Number(n, _)) => {
                if self.toks[from].is_token(&Token::Minus) {
                    format!("-{n}")
                } else {
                    n.clone()
                }
            }
            Kind::Sql(Token::Word(w)) if !signed => w.value.clone(),
            Kind::Interval { .. } => self.text[self.toks[from].start..tok.end].to_string(),
            _ if tok.opens() && !signed => {
                let end = self.after(self.at);
                let text = self.source(&self.toks[self.at..end]).to_string();
                self.at = end;
                return Ok(text);
            }
            _ => return Err(self.expected("a value: a string, a number or a word")),
        };
        self.at += 1;
        Ok(text)
    }
    /// A trailing `SETTINGS …`, if it comes next.
    pub fn optional_settings(&mut self, into: &mut Settings) -> Result<(), Error> {
        if self.eat(&["SETTINGS"]) { self.settings(into) } else { Ok(()) }
    }
}
