//! The token pass: the dialect's own forms into ones sqlparser reads as they are meant.
//!
//! It runs before the parser, never as a second try after an error, since some forms parse
//! silently as something else (`now() - 5s`, `FROM a LATEST JOIN b`, `FROM s EMIT …`).
//!
//! What sqlparser has no place for becomes a reserved setting of the same query level (see
//! `reserved` for the names and how to read them), its expressions still parsed as expressions.
//!
//! Invariants
//! - Every token made here stands at the position of the one it came from.
//! - Bracket depth plus operators in a row never exceed `Limits::depth_max` (chains of AND and
//!   OR do not count, `dialect` balances them): whatever walks the tree may recurse.
//! - Time is linear in the tokens, times the bracket depth at worst.
//!
//! Not here: statements that are not queries (`statement`), checking what a clause says (bind).

mod clauses;
mod level;
mod session;

use self::level::{Gathered, Level};
use super::lex::{Kind, Tok, plain_word};
use super::words::{self, CLAUSES, JOIN_MODIFIERS, SET_OPERATORS, ends_operand};
use super::{Limits, reserved};
use sqlparser::tokenizer::{Token, TokenWithSpan};
use std::cell::Cell;
use weir_base::{Error, err};

/// Tokens for sqlparser.
pub struct Rewritten {
    pub tokens: Vec<TokenWithSpan>,
    /// How deep a tree they can make.
    pub depth: usize,
}

/// Rewrites the tokens of one query, or of one expression if `query` is false.
///
/// # Errors
/// Code 62 for a clause that is malformed or stands where it would be read as another.
pub fn rewrite(text: &str, toks: &[Tok], query: bool, limits: &Limits) -> Result<Rewritten, Error> {
    let pass = Pass {
        text,
        toks,
        close: matching(toks),
        depth_max: limits.depth_max,
        deepest: Cell::new(0),
        from_group: Cell::new(false),
        from_parens: Cell::new(0),
    };
    let mut tokens = Vec::with_capacity(toks.len() + 16);
    pass.level(0, toks.len(), query, 0, &mut tokens)?;
    Ok(Rewritten { tokens, depth: pass.deepest.get() })
}

/// For each opening bracket the index of its closing one.
fn matching(toks: &[Tok]) -> Vec<usize> {
    let mut close = vec![0; toks.len()];
    let mut open = Vec::new();
    for (i, tok) in toks.iter().enumerate() {
        if tok.opens() {
            open.push(i);
        } else if tok.closes()
            && let Some(at) = open.pop()
        {
            close[at] = i;
        }
    }
    close
}

/// sqlparser reads `FROM ((…) …)` twice, as a query and as a join: 2^n for n such levels.
const FROM_PARENS_MAX: usize = 5;

struct Pass<'a> {
    text: &'a str,
    toks: &'a [Tok],
    close: Vec<usize>,
    depth_max: usize,
    deepest: Cell<usize>,
    /// The level about to start is a group in FROM.
    from_group: Cell<bool>,
    /// Groups in FROM around here whose content starts with another parenthesis.
    from_parens: Cell<usize>,
}

impl Pass<'_> {
    fn source(&self, from: usize, to: usize) -> &str {
        if from >= to { "" } else { &self.text[self.toks[from].start..self.toks[to - 1].end] }
    }
    /// Whether a clause may start at `i` of the level that starts at `from`.
    fn clause_may_start(&self, from: usize, i: usize) -> bool {
        i > from && ends_operand(&self.toks[i - 1])
    }
    /// Behind the token at `i`, jumping over a bracket that opens there.
    fn after(&self, i: usize) -> usize {
        if self.toks[i].opens() { self.close[i] + 1 } else { i + 1 }
    }
    /// The first token at this level in `i..to` that starts one of the clauses `words`.
    fn find_clause(&self, from: usize, mut i: usize, to: usize, words: &[&str]) -> usize {
        while i < to {
            if self.toks[i].is_any(words) && self.clause_may_start(from, i) {
                return i;
            }
            i = self.after(i);
        }
        to
    }
    /// Whether one of `words` stands at the level of `from..to`.
    fn contains(&self, mut from: usize, to: usize, words: &[&str]) -> bool {
        while from < to {
            if self.toks[from].is_any(words) {
                return true;
            }
            from = self.after(from);
        }
        false
    }

    fn too_deep(&self, i: usize) -> Error {
        self.toks[i].error(format!(
            "expression nests deeper than {} levels (brackets and operators in a row)",
            self.depth_max
        ))
    }

    /// One bracket level: `from..to` without the brackets. `deep` counts what encloses it.
    fn level(
        &self,
        from: usize,
        to: usize,
        is_query: bool,
        deep: usize,
        out: &mut Vec<TokenWithSpan>,
    ) -> Result<(), Error> {
        let starts_query = from < to && self.toks[from].is_any(&["SELECT", "WITH", "FROM"]);
        let combines =
            from < to && self.toks[from].is_token(&Token::LParen) && self.contains(from, to, SET_OPERATORS);
        let query = is_query || starts_query || combines;
        let mut level = Level {
            gathered: Gathered::default(),
            chain: 0,
            betweens: 0,
            ternaries: 0,
            in_from: false,
            starts_in_from: self.from_group.take(),
            selects: 0,
        };
        let mut i = from;
        if query && from < to && self.toks[from].is("WITH") {
            i = self.with(from, to, deep, &mut level.gathered, out)?;
        }
        while i < to {
            i = self.item(from, to, i, query, deep, &mut level, out)?;
        }
        if query {
            level.gathered.finish(&self.toks[to.max(1) - 1], out);
        } else if let Some(strict) = level.gathered.strictness.iter().find(|s| **s != "all") {
            return Err(self.toks[from].error(format!(
                "{} JOIN inside parentheses wants a subquery: write (SELECT … FROM a {} JOIN b …)",
                strict.to_uppercase(),
                strict.to_uppercase()
            )));
        }
        Ok(())
    }

    /// Handles the token at `i` and says where to go on.
    #[allow(clippy::too_many_arguments)]
    fn item(
        &self,
        from: usize,
        to: usize,
        i: usize,
        query: bool,
        deep: usize,
        level: &mut Level,
        out: &mut Vec<TokenWithSpan>,
    ) -> Result<usize, Error> {
        let tok = &self.toks[i];
        level.count(tok);
        let depth = deep + level.chain;
        if depth > self.depth_max {
            return Err(self.too_deep(i));
        }
        self.deepest.set(self.deepest.get().max(depth));
        let token = match &tok.kind {
            Kind::Interval { count, unit } => {
                out.push(tok.with(Token::make_word("INTERVAL", None)));
                out.push(tok.with(Token::SingleQuotedString(count.clone())));
                out.push(tok.with(Token::make_word(unit.keyword, None)));
                return Ok(i + 1);
            }
            Kind::Sql(token) => token,
        };
        match token {
            Token::LBrace if self.is_parameter(i) => {
                let close = self.close[i];
                let name = self.toks[i + 1].identifier().unwrap_or_default().to_string();
                let type_text = self.source(i + 3, close).to_string();
                for token in [
                    plain_word(reserved::PARAMETER),
                    Token::LParen,
                    Token::SingleQuotedString(name),
                    Token::Comma,
                    Token::SingleQuotedString(type_text),
                    Token::RParen,
                ] {
                    out.push(tok.with(token));
                }
                return Ok(close + 1);
            }
            Token::LBracket if i > from && self.toks[i - 1].is("IN") => {
                // `x IN [1, 2]` is `x IN (1, 2)`.
                let close = self.close[i];
                out.push(tok.with(Token::LParen));
                self.level(i + 1, close, false, deep + level.chain + 1, out)?;
                out.push(self.toks[close].with(Token::RParen));
                return Ok(close + 1);
            }
            Token::DoubleColon => {
                out.push(tok.with(token.clone()));
                return Ok(self.type_name(i + 1, to, out));
            }
            Token::LParen if self.in_from(from, i, level) => {
                return self.item_of_from(i, deep + level.chain, out);
            }
            Token::LParen | Token::LBracket | Token::LBrace => {
                let close = self.close[i];
                out.push(tok.with(token.clone()));
                self.level(i + 1, close, false, deep + level.chain + 1, out)?;
                let Kind::Sql(closing) = &self.toks[close].kind else { unreachable!("a bracket is a token") };
                out.push(self.toks[close].with(closing.clone()));
                return Ok(close + 1);
            }
            Token::Char('?') => level.ternaries += 1,
            Token::Colon if level.ternaries > 0 && !self.is_json_colon(i, to) => {
                level.ternaries -= 1;
                out.push(tok.with(Token::Char(':')));
                return Ok(i + 1);
            }
            Token::Word(w) if w.quote_style.is_none() => {
                return self.word(from, to, i, query, deep, level, out);
            }
            _ => {}
        }
        out.push(tok.with(token.clone()));
        Ok(i + 1)
    }

    #[allow(clippy::too_many_arguments)]
    fn word(
        &self,
        from: usize,
        to: usize,
        i: usize,
        query: bool,
        deep: usize,
        level: &mut Level,
        out: &mut Vec<TokenWithSpan>,
    ) -> Result<usize, Error> {
        let tok = &self.toks[i];
        let upper = tok.word().unwrap_or_default().to_ascii_uppercase();
        let starts = self.clause_may_start(from, i);
        let next_is = |word: &str| i + 1 < to && self.toks[i + 1].is(word);
        if upper == "SESSION"
            && let Some(next) = self.session(i, to, deep + level.chain, out)?
        {
            return Ok(next);
        }
        if i + 1 < to && self.toks[i + 1].is_token(&Token::LParen) && self.is_function(from, i, &upper) {
            out.push(tok.with(plain_word(tok.word().unwrap_or_default())));
            return Ok(i + 1);
        }
        if starts && JOIN_MODIFIERS.contains(&upper.as_str()) {
            let run = (i..to).take_while(|&j| self.toks[j].is_any(JOIN_MODIFIERS)).count();
            if i + run < to && self.toks[i + run].is("JOIN") {
                return self.join(i, i + run, level, out);
            }
            if upper == "GLOBAL" && (next_is("IN") || next_is("NOT")) {
                return Ok(i + 1);
            }
        }
        match upper.as_str() {
            "JOIN" if starts => level.gathered.strictness.push("all"),
            "SELECT" => level.selects += 1,
            "FROM" => level.in_from = true,
            "AS" if from >= 2 && self.toks[from - 2].is_any(&["CAST", "TRY_CAST"]) => {
                out.push(tok.with(Token::make_word("AS", None)));
                return Ok(self.type_name(i + 1, to, out));
            }
            "INTERVAL" => {
                if let Some(next) = self.interval_text(i, to, out)? {
                    return Ok(next);
                }
            }
            _ => {}
        }
        if starts && CLAUSES.contains(&upper.as_str()) {
            level.in_from = false;
        }
        if query && starts && level.selects > 0 {
            match upper.as_str() {
                "EMIT" => return self.emit(from, to, i, level),
                "PARTITION" if next_is("BY") => {
                    return self.by(from, to, i, deep, reserved::PARTITION_BY, level);
                }
                "SHUFFLE" if next_is("BY") => return self.by(from, to, i, deep, reserved::SHUFFLE_BY, level),
                "LIMIT" => {
                    if let Some(next) = self.limit_by(from, to, i, deep, level)? {
                        return Ok(next);
                    }
                }
                "FINAL" if level.in_from => {
                    level.gathered.add(
                        reserved::FINAL,
                        vec![tok.with(Token::Number("1".into(), false))],
                        tok,
                    )?;
                    return Ok(i + 1);
                }
                "SETTINGS" => {
                    out.push(tok.with(Token::make_word("SETTINGS", None)));
                    level.gathered.insert_at = Some((out.len(), true));
                    return Ok(i + 1);
                }
                "FORMAT" if level.gathered.insert_at.is_none() => {
                    level.gathered.insert_at = Some((out.len(), false));
                }
                "UNION" | "INTERSECT" | "EXCEPT" => level.gathered.refuse_in_branch(tok, &upper)?,
                _ => {}
            }
        }
        if tok.word().is_some_and(|w| w.starts_with("__"))
            && next_is_eq(self.toks, i, to)
            && reserved::is_reserved(&upper.to_lowercase())
        {
            return Err(
                err!(UnknownSetting, "setting {} is reserved", upper.to_lowercase()).at(tok.line, tok.column)
            );
        }
        let Kind::Sql(token) = &tok.kind else { unreachable!("a word is a token") };
        out.push(tok.with(token.clone()));
        Ok(i + 1)
    }

    /// Whether the parenthesis at `i` is an item of FROM.
    fn in_from(&self, from: usize, i: usize, level: &Level) -> bool {
        if i == from {
            return level.starts_in_from;
        }
        let before = &self.toks[i - 1];
        level.in_from && (before.is_any(&["FROM", "JOIN"]) || before.is_token(&Token::Comma))
    }

    /// A subquery or nested join in FROM: redundant parentheses go, nesting is limited.
    fn item_of_from(&self, i: usize, deep: usize, out: &mut Vec<TokenWithSpan>) -> Result<usize, Error> {
        let close = self.close[i];
        let (mut open, mut shut) = (i, close);
        while self.toks[open + 1].is_token(&Token::LParen) && self.close[open + 1] + 1 == shut {
            (open, shut) = (open + 1, shut - 1);
        }
        let nests = self.toks[open + 1].is_token(&Token::LParen);
        let parens = self.from_parens.get();
        if nests && parens >= FROM_PARENS_MAX {
            return Err(
                self.toks[i].error(format!("parentheses in FROM nest deeper than {FROM_PARENS_MAX} levels"))
            );
        }
        self.from_parens.set(parens + usize::from(nests));
        self.from_group.set(true);
        // `FROM ((t))`: a single name keeps no parenthesis at all.
        let bare = shut == open + 2;
        if !bare {
            out.push(self.toks[i].with(Token::LParen));
        }
        self.level(open + 1, shut, false, deep + (open - i) + 1, out)?;
        if !bare {
            out.push(self.toks[close].with(Token::RParen));
        }
        self.from_parens.set(parens);
        Ok(close + 1)
    }

    /// The type at `i`. A plain word stays one; a longer type becomes one quoted word of its
    /// text, since sqlparser knows only some of them (see `reserved::type_text`).
    fn type_name(&self, i: usize, to: usize, out: &mut Vec<TokenWithSpan>) -> usize {
        if i >= to || self.toks[i].identifier().is_none() {
            return i;
        }
        let list = i + 1 < to && self.toks[i + 1].is_token(&Token::LParen);
        let end = if list { self.close[i + 1] + 1 } else { i + 1 };
        match &self.toks[i].kind {
            Kind::Sql(token) if !list => out.push(self.toks[i].with(token.clone())),
            _ => out.push(self.toks[i].with(Token::make_word(self.source(i, end), Some('"')))),
        }
        end
    }

    /// `{name:type}`, as opposed to a map literal.
    fn is_parameter(&self, i: usize) -> bool {
        let close = self.close[i];
        i + 3 < close && self.toks[i + 1].identifier().is_some() && self.toks[i + 2].is_token(&Token::Colon)
    }

    /// With a ternary open at this level: whether the colon at `i` is still a JSON path
    /// (`c ? raw:a : b`): nothing around it, and another colon to come.
    fn is_json_colon(&self, i: usize, to: usize) -> bool {
        let (before, colon) = (&self.toks[i - 1], &self.toks[i]);
        let glued = i + 1 < to && before.identifier().is_some() && before.end == colon.start;
        if !glued || self.toks[i + 1].identifier().is_none() || self.toks[i + 1].start != colon.end {
            return false;
        }
        let mut j = i + 1;
        while j < to && !self.toks[j].is_token(&Token::Comma) {
            if self.toks[j].is_token(&Token::Colon) {
                return true;
            }
            j = self.after(j);
        }
        false
    }

    /// Whether the keyword `upper` before a parenthesis is a function's name here.
    fn is_function(&self, from: usize, i: usize, upper: &str) -> bool {
        let before = (i > from).then(|| &self.toks[i - 1]);
        if upper == "VALUES" {
            return before.is_some_and(|t| t.is_any(&["FROM", "JOIN"]) || t.is_token(&Token::Comma));
        }
        if !words::FUNCTION_WORDS.contains(&upper) {
            return false;
        }
        let (open, close) = (i + 1, self.close[i + 1]);
        let subquery = open + 1 < close && self.toks[open + 1].is_any(&["SELECT", "WITH"]);
        if self.contains(open + 1, close, words::special_form_word(upper)) {
            return false;
        }
        let Some(before) = before else { return !(subquery && upper == "ARRAY") };
        let wildcard = before.is_token(&Token::Mul)
            && (i < from + 2 || self.toks[i - 2].is_any(&["SELECT", "DISTINCT"]) || {
                self.toks[i - 2].is_token(&Token::Comma) || self.toks[i - 2].is_token(&Token::Period)
            });
        match upper {
            "REPLACE" if wildcard => false,
            "ANY" | "ALL" | "ARRAY" if subquery => false,
            _ => !ends_operand(before) && !before.is_any(&["NOT", "GLOBAL"]),
        }
    }

    /// `INTERVAL '5s'` and `INTERVAL '5 second'`, if that is what stands at `i`.
    fn interval_text(
        &self,
        i: usize,
        to: usize,
        out: &mut Vec<TokenWithSpan>,
    ) -> Result<Option<usize>, Error> {
        if i + 1 < to && matches!(self.toks[i + 1].kind, Kind::Interval { .. }) {
            return Ok(Some(i + 1)); // INTERVAL 5s
        }
        let Some(text) = self.toks.get(i + 1).filter(|_| i + 1 < to).and_then(Tok::string) else {
            return Ok(None);
        };
        let split = text.trim().find(|c: char| c.is_alphabetic());
        let Some((count, name)) = split.map(|at| text.trim().split_at(at)) else { return Ok(None) };
        let count = count.trim();
        let digits = count.strip_prefix(['-', '+']).unwrap_or(count);
        let singular = name.strip_suffix(['s', 'S']).unwrap_or(name);
        let unit = super::lex::unit(name)
            .or_else(|| super::lex::UNITS.iter().copied().find(|u| u.keyword.eq_ignore_ascii_case(singular)));
        let Some(unit) = unit.filter(|_| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        else {
            return Err(self.toks[i + 1].error(format!(
                "interval '{text}' is not a number and a unit; write for example 5s or INTERVAL 5 SECOND"
            )));
        };
        let at = &self.toks[i + 1];
        out.push(self.toks[i].with(Token::make_word("INTERVAL", None)));
        out.push(at.with(Token::SingleQuotedString(count.to_string())));
        out.push(at.with(Token::make_word(unit.keyword, None)));
        Ok(Some(i + 2))
    }
}

fn next_is_eq(toks: &[Tok], i: usize, to: usize) -> bool {
    i + 1 < to && toks[i + 1].is_token(&Token::Eq)
}
