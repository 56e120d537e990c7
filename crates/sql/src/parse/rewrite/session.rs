//! `session(s, 5s, [start, end))`: the bracket forms of its last argument.
//!
//! They become a call, `_session_range('[)', start, end)`, of which sqlparser can make something.

use super::super::lex::{Kind, plain_word};
use super::super::reserved;
use super::Pass;
use sqlparser::tokenizer::{Token, TokenWithSpan};
use weir_base::Error;

impl Pass<'_> {
    /// The call at `i`, if it is one whose last argument is a pair in brackets.
    pub(super) fn session(
        &self,
        i: usize,
        to: usize,
        deep: usize,
        out: &mut Vec<TokenWithSpan>,
    ) -> Result<Option<usize>, Error> {
        let open = i + 1;
        if open >= to || !self.toks[open].is_token(&Token::LParen) {
            return Ok(None);
        }
        let close = self.close[open];
        let (mut comma, mut at) = (None, open + 1);
        while at < close {
            if self.toks[at].is_token(&Token::Comma) {
                comma = Some(at);
            }
            at = self.after(at);
        }
        let Some(comma) = comma else { return Ok(None) };
        let pair = comma + 1;
        let bracket = |at: usize| match &self.toks[at].kind {
            Kind::Sql(Token::LParen) => Some("("),
            Kind::Sql(Token::LBracket) => Some("["),
            Kind::Sql(Token::RParen) => Some(")"),
            Kind::Sql(Token::RBracket) => Some("]"),
            _ => None,
        };
        if !self.toks[pair].opens() || self.close[pair] + 1 != close {
            return Ok(None);
        }
        let shut = self.close[pair];
        let (Some(left), Some(right)) = (bracket(pair), bracket(shut)) else { return Ok(None) };
        let mut items = 0;
        let mut at = pair + 1;
        while at < shut {
            items += usize::from(self.toks[at].is_token(&Token::Comma));
            at = self.after(at);
        }
        if items != 1 {
            return Ok(None);
        }
        let tok = &self.toks[i];
        out.push(tok.with(plain_word("session")));
        out.push(self.toks[open].with(Token::LParen));
        self.level(open + 1, comma, false, deep + 1, out)?;
        out.push(self.toks[comma].with(Token::Comma));
        let tok = &self.toks[pair];
        for token in [
            plain_word(reserved::SESSION_RANGE),
            Token::LParen,
            Token::SingleQuotedString(format!("{left}{right}")),
            Token::Comma,
        ] {
            out.push(tok.with(token));
        }
        self.level(pair + 1, shut, false, deep + 2, out)?;
        out.push(self.toks[shut].with(Token::RParen));
        out.push(self.toks[close].with(Token::RParen));
        Ok(Some(close + 1))
    }
}
