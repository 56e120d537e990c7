//! What sqlparser is told about the dialect.
//!
//! It answers as ClickHouse's dialect where sqlparser asks for a type (so all its branches for
//! ClickHouse are on) and adds: `FILTER (WHERE)`, subqueries as arguments, `c ? a : b`, chains
//! of AND and OR as balanced trees (a chain of thousands must not become a tree as deep), and
//! a budget of steps, since sqlparser tries some forms twice at every nesting level.
//!
//! Not here: what no hook can reach; `rewrite` does that on the tokens before.

use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, ObjectName,
};
use sqlparser::dialect::{ClickHouseDialect, Dialect, Precedence};
use sqlparser::keywords::{self, Keyword};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;
use std::any::TypeId;
use std::sync::atomic::{AtomicU64, Ordering};

/// Below OR (5): `a OR b ? c : d` is `(a OR b) ? c : d`.
const TERNARY_PRECEDENCE: u8 = 3;

/// From this many operands on a chain of AND or OR is balanced; shorter ones stay left-deep,
/// as people expect to see them in `EXPLAIN AST`.
const BALANCED_FROM: usize = 16;

/// One parse of one text; not shared between parses, since it counts steps.
#[derive(Debug)]
pub struct WeirDialect {
    steps_left: AtomicU64,
}

impl WeirDialect {
    /// `steps_max`: how often the parser may look for an operator before it gives up.
    pub fn new(steps_max: u64) -> Self {
        WeirDialect { steps_left: AtomicU64::new(steps_max) }
    }
    /// Whether parsing stopped because the budget was spent.
    pub fn exhausted(&self) -> bool {
        self.steps_left.load(Ordering::Relaxed) == 0
    }
    fn step(&self) -> bool {
        let spent = |left: u64| left.checked_sub(1);
        self.steps_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent)
            .is_ok_and(|before| before > 1)
    }
}

/// Flags that are ClickHouse's own answer.
macro_rules! as_clickhouse {
    ($($flag:ident)*) => { $(fn $flag(&self) -> bool { ClickHouseDialect {}.$flag() })* };
}
/// Flags that are on for us alone.
macro_rules! on {
    ($($flag:ident)*) => { $(fn $flag(&self) -> bool { true })* };
}

impl Dialect for WeirDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<ClickHouseDialect>()
    }
    fn is_identifier_start(&self, c: char) -> bool {
        ClickHouseDialect {}.is_identifier_start(c)
    }
    fn is_identifier_part(&self, c: char) -> bool {
        ClickHouseDialect {}.is_identifier_part(c)
    }
    as_clickhouse! {
        supports_string_literal_backslash_escape supports_select_wildcard_except
        describe_requires_table_keyword require_interval_qualifier supports_limit_comma
        supports_insert_table_function supports_insert_format supports_numeric_literal_underscores
        supports_partition_by_after_order_by supports_array_join_syntax supports_dictionary_syntax
        supports_lambda_functions supports_from_first_select supports_order_by_all
        supports_group_by_expr supports_group_by_with_modifier supports_nested_comments
        supports_optimize_table supports_prewhere supports_with_fill supports_limit_by
        supports_interpolate supports_settings supports_select_format
        supports_select_wildcard_replace supports_comma_separated_trim
    }
    on! {
        supports_filter_during_aggregation supports_subquery_as_function_arg
        supports_window_function_null_treatment_arg supports_in_empty_list
        supports_window_clause_named_window_reference
    }

    fn is_column_alias(&self, kw: &Keyword, _: &mut Parser) -> bool {
        !keywords::RESERVED_FOR_COLUMN_ALIAS.contains(kw) && !is_clause(kw)
    }
    fn is_table_alias(&self, kw: &Keyword, _: &mut Parser) -> bool {
        !keywords::RESERVED_FOR_TABLE_ALIAS.contains(kw) && !is_clause(kw)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        if !self.step() {
            return Some(Err(ParserError::RecursionLimitExceeded));
        }
        match parser.peek_token_ref().token {
            Token::Char('?') => Some(Ok(TERNARY_PRECEDENCE)),
            _ => None,
        }
    }

    fn parse_infix(&self, parser: &mut Parser, left: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        match &parser.peek_token_ref().token {
            Token::Char('?') => Some(ternary(parser, left)),
            Token::Word(w) if w.keyword == Keyword::AND => {
                Some(chain(parser, left, Keyword::AND, self.prec_value(Precedence::And), BinaryOperator::And))
            }
            Token::Word(w) if w.keyword == Keyword::OR => {
                Some(chain(parser, left, Keyword::OR, self.prec_value(Precedence::Or), BinaryOperator::Or))
            }
            _ => None,
        }
    }
}

/// Clause words that sqlparser would take as an alias without AS.
fn is_clause(kw: &Keyword) -> bool {
    use Keyword::*;
    matches!(
        kw,
        SETTINGS
            | FORMAT
            | PARTITION
            | PREWHERE
            | FINAL
            | SAMPLE
            | GLOBAL
            | ANY
            | ALL
            | ASOF
            | SEMI
            | ANTI
            | ARRAY
            | ON
            | USING
            | JOIN
            | INNER
            | LEFT
            | RIGHT
            | FULL
            | CROSS
            | QUALIFY
            | WINDOW
            | AND
            | OR
            | NOT
            | IN
            | LIKE
            | ILIKE
            | BETWEEN
            | IS
            | THEN
            | WHEN
            | ELSE
            | BY
            | DESC
            | ASC
    )
}

/// `left ? a : b` to `if(left, a, b)`.
fn ternary(parser: &mut Parser, left: &Expr) -> Result<Expr, ParserError> {
    parser.expect_token(&Token::Char('?'))?;
    let then = parser.parse_expr()?;
    parser.expect_token(&Token::Char(':'))?;
    let otherwise = parser.parse_subexpr(TERNARY_PRECEDENCE - 1)?;
    Ok(call("if", vec![left.clone(), then, otherwise]))
}

/// A plain function call.
pub fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(a))).collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

fn chain(
    parser: &mut Parser,
    left: &Expr,
    word: Keyword,
    precedence: u8,
    op: BinaryOperator,
) -> Result<Expr, ParserError> {
    let mut operands = vec![left.clone()];
    while parser.parse_keyword(word) {
        operands.push(parser.parse_subexpr(precedence)?);
    }
    Ok(join(operands, &op))
}

fn join(mut operands: Vec<Expr>, op: &BinaryOperator) -> Expr {
    let pair = |left: Expr, right: Expr| Expr::BinaryOp {
        left: Box::new(left),
        op: op.clone(),
        right: Box::new(right),
    };
    while operands.len() >= BALANCED_FROM {
        let mut halved = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            halved.push(match rest.next() {
                Some(right) => pair(left, right),
                None => left,
            });
        }
        operands = halved;
    }
    operands.into_iter().reduce(pair).expect("a chain has its left operand")
}
