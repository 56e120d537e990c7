//! Clauses sqlparser has no place for: WITH of expressions, JOIN strictness, EMIT, PARTITION BY
//! and SHUFFLE BY of a query, LIMIT … BY.
//!
//! Each takes its tokens off the level and gathers a reserved setting in their stead.
//!
//! Not here: where the settings go (`level`), how to read them back (`reserved`).

use super::super::lex::plain_word;
use super::super::reserved;
use super::super::words::{CLAUSES, EMIT_ENDS};
use super::Pass;
use super::level::{Gathered, Level};
use sqlparser::tokenizer::{Token, TokenWithSpan};
use weir_base::{Error, err};

impl Pass<'_> {
    /// `WITH a AS (SELECT …), expr AS b`: keeps the first kind, gathers the second.
    pub(super) fn with(
        &self,
        from: usize,
        to: usize,
        deep: usize,
        gathered: &mut Gathered,
        out: &mut Vec<TokenWithSpan>,
    ) -> Result<usize, Error> {
        let mut i = from + 1;
        let recursive = i < to && self.toks[i].is("RECURSIVE");
        if recursive {
            i += 1;
        }
        let mut kept = Vec::new();
        let end = {
            let mut j = i;
            while j < to && !self.toks[j].is_any(&["SELECT", "FROM"]) {
                j = self.after(j);
            }
            j.min(to)
        };
        while i < end {
            let mut stop = i;
            while stop < end && !self.toks[stop].is_token(&Token::Comma) {
                stop = self.after(stop);
            }
            let length = stop - i;
            let named = |n: usize| self.toks[n].is("AS");
            if length >= 3 && named(stop - 2) && self.toks[stop - 1].identifier().is_some() {
                let name = &self.toks[stop - 1];
                let mut value = vec![
                    name.with(plain_word(reserved::WITH_ITEM)),
                    name.with(Token::LParen),
                    name.with(Token::SingleQuotedString(name.identifier().unwrap_or_default().to_string())),
                    name.with(Token::Comma),
                ];
                self.level(i, stop - 2, false, deep + 1, &mut value)?;
                value.push(name.with(Token::RParen));
                gathered.settings.push((reserved::WITH, value));
            } else {
                kept.push((i, stop));
            }
            i = stop + 1;
        }
        let toks = self.toks;
        if !kept.is_empty() {
            out.push(toks[from].with(Token::make_word("WITH", None)));
            if recursive {
                out.push(toks[from + 1].with(Token::make_word("RECURSIVE", None)));
            }
            for (n, (a, b)) in kept.into_iter().enumerate() {
                if n > 0 {
                    out.push(toks[a].with(Token::Comma));
                }
                self.level(a, b, false, deep, out)?;
            }
        }
        Ok(end)
    }

    /// `[GLOBAL] [LEFT …] [ASOF …] JOIN` at `i..join`, modifiers in any order.
    pub(super) fn join(
        &self,
        i: usize,
        join: usize,
        level: &mut Level,
        out: &mut Vec<TokenWithSpan>,
    ) -> Result<usize, Error> {
        let toks = &self.toks[i..join];
        let has = |word: &str| toks.iter().any(|t| t.is(word));
        if has("ARRAY") {
            out.extend(toks.iter().filter_map(|t| t.word().map(|w| t.with(Token::make_word(w, None)))));
            out.push(self.toks[join].with(Token::make_word("JOIN", None)));
            return Ok(join + 1);
        }
        let one_of = |words: &[&'static str]| -> Result<Option<&'static str>, Error> {
            let mut found = words.iter().copied().filter(|w| has(w));
            match (found.next(), found.next()) {
                (Some(a), Some(b)) => {
                    Err(self.toks[i].error(format!("{a} and {b} exclude each other in one JOIN")))
                }
                (first, _) => Ok(first),
            }
        };
        let strict = one_of(&["ANY", "ALL", "ASOF", "LATEST", "SEMI", "ANTI"])?;
        let kind = one_of(&["LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL"])?;
        if has("PASTE") {
            return Err(err!(NotImplemented, "PASTE JOIN is not implemented")
                .at(self.toks[i].line, self.toks[i].column));
        }
        let at = &self.toks[i];
        let mut push = |word: &str| out.push(at.with(Token::make_word(word, None)));
        match (kind, strict) {
            (None | Some("LEFT"), Some(word @ ("SEMI" | "ANTI"))) => {
                push("LEFT");
                push(word);
            }
            (Some("RIGHT"), Some(word @ ("SEMI" | "ANTI"))) => {
                push("RIGHT");
                push(word);
            }
            (Some(kind), Some(word @ ("SEMI" | "ANTI"))) => {
                return Err(
                    at.error(format!("{kind} {word} JOIN does not exist; write LEFT or RIGHT {word} JOIN"))
                );
            }
            (Some("CROSS" | "NATURAL"), Some(word @ ("ANY" | "ASOF" | "LATEST"))) => {
                return Err(
                    at.error(format!("{word} JOIN wants a condition; write INNER or LEFT {word} JOIN … ON"))
                );
            }
            (Some(kind), _) => {
                push(kind);
                if has("OUTER") {
                    push("OUTER");
                }
            }
            (None, _) => {}
        }
        out.push(self.toks[join].with(Token::make_word("JOIN", None)));
        level.gathered.strictness.push(match strict {
            Some("ANY") => "any",
            Some("ASOF") => "asof",
            Some("LATEST") => "latest",
            _ => "all",
        });
        Ok(join + 1)
    }

    pub(super) fn emit(&self, from: usize, to: usize, i: usize, level: &mut Level) -> Result<usize, Error> {
        let end = self.find_clause(from, i + 1, to, EMIT_ENDS);
        let text = self.source(i + 1, end);
        if text.is_empty() {
            return Err(self.toks[i].error(
                "EMIT wants a policy, for example EMIT PERIODIC 5s (as a name write AS emit, or quote it)",
            ));
        }
        let value = vec![self.toks[i].with(Token::SingleQuotedString(text.to_string()))];
        level.gathered.add(reserved::EMIT, value, &self.toks[i])?;
        Ok(end)
    }

    /// `PARTITION BY a, b` as `__partition_by = _list(a, b)`.
    pub(super) fn by(
        &self,
        from: usize,
        to: usize,
        i: usize,
        deep: usize,
        key: &'static str,
        level: &mut Level,
    ) -> Result<usize, Error> {
        let end = self.find_clause(from, i + 2, to, CLAUSES);
        if end == i + 2 {
            return Err(self.toks[i].error("BY wants at least one expression"));
        }
        let mut value = vec![self.toks[i].with(plain_word(reserved::LIST)), self.toks[i].with(Token::LParen)];
        self.level(i + 2, end, false, deep + 1, &mut value)?;
        value.push(self.toks[end - 1].with(Token::RParen));
        level.gathered.add(key, value, &self.toks[i])?;
        Ok(end)
    }

    /// `LIMIT n [OFFSET m] BY a, b` as `__limit_by = _list(_list(n, m), a, b)`.
    pub(super) fn limit_by(
        &self,
        from: usize,
        to: usize,
        i: usize,
        deep: usize,
        level: &mut Level,
    ) -> Result<Option<usize>, Error> {
        let stops: Vec<&str> = CLAUSES.iter().copied().filter(|c| *c != "OFFSET").collect();
        let mut end = self.find_clause(from, i + 1, to, &stops);
        let mut by = i + 1;
        while by < end && !self.toks[by].is("BY") {
            by = self.after(by);
        }
        if by >= end {
            return Ok(None);
        }
        end = self.find_clause(from, by + 1, end, &["OFFSET"]);
        let at = &self.toks[i];
        let mut count = (i + 1..by).collect::<Vec<_>>();
        let separator =
            count.iter().position(|&j| self.toks[j].is("OFFSET") || self.toks[j].is_token(&Token::Comma));
        let (limit, offset) = match separator {
            None => (count, vec![]),
            Some(n) => {
                let after = count.split_off(n);
                let comma = self.toks[after[0]].is_token(&Token::Comma);
                let after = after[1..].to_vec();
                if comma { (after, count) } else { (count, after) }
            }
        };
        if limit.is_empty() || end == by + 1 || (separator.is_some() && offset.is_empty()) {
            return Err(at.error("LIMIT … BY wants: LIMIT n [OFFSET m] BY expression, …"));
        }
        let open = |out: &mut Vec<TokenWithSpan>| {
            out.push(at.with(plain_word(reserved::LIST)));
            out.push(at.with(Token::LParen));
        };
        let mut value = Vec::new();
        open(&mut value);
        open(&mut value);
        for (n, part) in [limit, offset].into_iter().filter(|p| !p.is_empty()).enumerate() {
            if n > 0 {
                value.push(at.with(Token::Comma));
            }
            self.level(part[0], part[part.len() - 1] + 1, false, deep + 2, &mut value)?;
        }
        value.push(at.with(Token::RParen));
        value.push(at.with(Token::Comma));
        self.level(by + 1, end, false, deep + 1, &mut value)?;
        value.push(at.with(Token::RParen));
        level.gathered.add(reserved::LIMIT_BY, value, at)?;
        Ok(Some(end))
    }
}
