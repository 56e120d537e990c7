//! CREATE TASK and CREATE ALERT.
//!
//! Not here: whether their queries can be (engine).

use super::cursor::Cursor;
use super::ddl::{refuse_on_cluster, take_comment, view_select};
use super::show::duration_micros;
use crate::ast::{CreateJob, JobSpec, Statement};
use sqlparser::tokenizer::Token;
use weir_base::Error;

/// `SCHEDULE i [TIMEOUT i] INTO target AS SELECT …`
pub fn create_task(c: &mut Cursor, or_replace: bool) -> Result<Statement, Error> {
    let if_not_exists = c.if_not_exists();
    let name = c.name("the name of a task")?;
    refuse_on_cluster(c)?;
    c.expect(&["SCHEDULE"])?;
    let every_us = positive(c)?;
    let timeout_us = if c.eat(&["TIMEOUT"]) { Some(positive(c)?) } else { None };
    c.expect(&["INTO"])?;
    let target = c.name("the stream that takes the rows")?;
    let spec = JobSpec::Task { every_us, timeout_us, target };
    rest(c, CreateJob { name, if_not_exists, or_replace, spec, ..CreateJob::default() })
}

/// `[BATCH n EVENTS [WITH TIMEOUT i]] [LIMIT m ALERTS PER i] CALL 'url' AS SELECT …`
pub fn create_alert(c: &mut Cursor, or_replace: bool) -> Result<Statement, Error> {
    let if_not_exists = c.if_not_exists();
    let name = c.name("the name of an alert")?;
    refuse_on_cluster(c)?;
    let (mut batch_rows, mut batch_wait_us, mut limit) = (1, None, None);
    if c.eat(&["BATCH"]) {
        batch_rows = count(c)?;
        if c.eat_any(&["EVENTS", "EVENT"]).is_none() {
            return Err(c.expected("EVENTS"));
        }
        if c.eat(&["WITH", "TIMEOUT"]) {
            batch_wait_us = Some(positive(c)?);
        }
    }
    if c.eat(&["LIMIT"]) {
        let calls = count(c)?;
        if c.eat_any(&["ALERTS", "ALERT"]).is_none() {
            return Err(c.expected("ALERTS"));
        }
        c.expect(&["PER"])?;
        limit = Some((calls, positive(c)?));
    }
    c.expect(&["CALL"])?;
    if c.peek().is_some_and(|t| t.identifier().is_some()) {
        return Err(c.not_implemented("CALL of a function (give the URL of a web hook in quotes)"));
    }
    let url = c.string("the URL to call, in quotes")?;
    let spec = JobSpec::Alert { url, batch_rows, batch_wait_us, limit };
    rest(c, CreateJob { name, if_not_exists, or_replace, spec, ..CreateJob::default() })
}

fn rest(c: &mut Cursor, mut job: CreateJob) -> Result<Statement, Error> {
    if c.eat(&["COMMENT"]) {
        job.comment = c.string("a comment in quotes")?;
    }
    c.expect(&["AS"])?;
    let select = take_comment(&c.toks[c.at..], &mut job.comment);
    (job.select, job.settings) = view_select(c, select)?;
    c.at = c.toks.len();
    Ok(Statement::CreateJob(Box::new(job)))
}

fn positive(c: &mut Cursor) -> Result<i64, Error> {
    let at = c.at;
    let micros = duration_micros(c)?;
    if micros <= 0 {
        c.at = at;
        return Err(c.expected("a duration above 0"));
    }
    Ok(micros)
}

fn count(c: &mut Cursor) -> Result<u64, Error> {
    let number = match c.peek().map(|t| &t.kind) {
        Some(super::lex::Kind::Sql(Token::Number(n, _))) => n.parse::<u64>().ok(),
        _ => None,
    };
    let Some(n) = number.filter(|n| *n > 0) else { return Err(c.expected("a whole number above 0")) };
    c.at += 1;
    Ok(n)
}
