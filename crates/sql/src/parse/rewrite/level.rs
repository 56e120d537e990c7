//! What the token pass knows of one bracket level, and the settings it leaves there.
//!
//! Not here: recognising the clauses (`clauses`).

use super::super::lex::{Kind, Tok, plain_word};
use super::super::reserved;
use sqlparser::tokenizer::{Token, TokenWithSpan};
use weir_base::Error;

/// What one query level gathered that sqlparser has no place for.
#[derive(Default)]
pub(super) struct Gathered {
    /// `key = value` tokens, in order.
    pub(super) settings: Vec<(&'static str, Vec<TokenWithSpan>)>,
    /// One word a JOIN of this level, in text order.
    pub(super) strictness: Vec<&'static str>,
    /// Where in the output reserved settings go, and whether a SETTINGS clause is there.
    pub(super) insert_at: Option<(usize, bool)>,
}

/// What the pass knows while it walks one bracket level.
pub(super) struct Level {
    pub(super) gathered: Gathered,
    /// Operators since the last comma, clause, AND or OR: how deep the tree gets here.
    pub(super) chain: usize,
    /// BETWEENs whose AND is still to come.
    pub(super) betweens: usize,
    /// `?` whose `:` is still to come.
    pub(super) ternaries: usize,
    pub(super) in_from: bool,
    /// The level is a group in FROM.
    pub(super) starts_in_from: bool,
    pub(super) selects: usize,
}

impl Level {
    pub(super) fn count(&mut self, tok: &Tok) {
        let Kind::Sql(token) = &tok.kind else { return };
        match token {
            Token::Comma => self.chain = 0,
            Token::Word(w) if w.quote_style.is_none() => {
                let upper = w.value.to_ascii_uppercase();
                match upper.as_str() {
                    "AND" if self.betweens > 0 => self.betweens -= 1,
                    "AND" | "OR" | "SELECT" | "FROM" | "WHERE" | "GROUP" | "HAVING" | "ORDER" | "LIMIT"
                    | "SETTINGS" => {
                        // SELECTs joined by UNION lean on one another as operands do.
                        self.chain = self.selects.saturating_sub(1);
                    }
                    "BETWEEN" => {
                        self.betweens += 1;
                        self.chain += 1;
                    }
                    "NOT" | "IS" | "IN" | "LIKE" | "ILIKE" | "XOR" | "DIV" | "OVER" | "CASE" | "COLLATE"
                    | "JOIN" | "AT" | "OVERLAPS" | "MEMBER" | "RLIKE" | "REGEXP" | "ISNULL" | "NOTNULL" => {
                        self.chain += 1
                    }
                    _ => {}
                }
            }
            Token::Word(_) | Token::Number(..) | Token::SingleQuotedString(_) | Token::Period => {}
            // Brackets count as levels; an index leans on what it indexes as well.
            Token::LParen | Token::LBrace => {}
            _ if tok.closes() => {}
            _ => self.chain += 1,
        }
    }
}

impl Gathered {
    pub(super) fn add(
        &mut self,
        key: &'static str,
        value: Vec<TokenWithSpan>,
        at: &Tok,
    ) -> Result<(), Error> {
        if self.settings.iter().any(|(k, _)| *k == key) && key != reserved::FINAL {
            let clause = reserved::clause_name(key);
            return Err(at.error(format!("{clause} is given twice; a query level takes one")));
        }
        self.settings.push((key, value));
        Ok(())
    }

    /// A clause before UNION would silently move to the whole query.
    pub(super) fn refuse_in_branch(&self, tok: &Tok, word: &str) -> Result<(), Error> {
        match self.settings.iter().find(|(k, _)| *k != reserved::WITH && *k != reserved::FINAL) {
            None => Ok(()),
            Some((key, _)) => Err(tok.error(format!(
                "{} before {word}: put that SELECT in parentheses",
                reserved::clause_name(key)
            ))),
        }
    }

    /// Puts what was gathered into the level's SETTINGS.
    pub(super) fn finish(mut self, last: &Tok, out: &mut Vec<TokenWithSpan>) {
        if self.strictness.iter().any(|s| *s != "all") {
            let words = self.strictness.join(",");
            self.settings
                .push((reserved::JOIN_STRICTNESS, vec![last.with(Token::SingleQuotedString(words))]));
        }
        if self.settings.is_empty() {
            return;
        }
        let (at, has_clause) = self.insert_at.unwrap_or((out.len(), false));
        let mut made = Vec::new();
        if !has_clause {
            made.push(last.with(Token::make_word("SETTINGS", None)));
        }
        for (n, (key, value)) in self.settings.into_iter().enumerate() {
            if n > 0 {
                made.push(last.with(Token::Comma));
            }
            made.push(last.with(plain_word(key)));
            made.push(last.with(Token::Eq));
            made.extend(value);
        }
        if has_clause {
            made.push(last.with(Token::Comma));
        }
        out.splice(at..at, made);
    }
}
