//! The session's time zone: what a time without a zone of its own is shown and read in.
//!
//! Everything that would have no zone gets one while it is bound, so that nothing later needs to
//! know of the session:
//!
//! - columns of `datetime` and `datetime64` are seen as of the session's zone (`shape`);
//! - types named in casts likewise ([`zoned`]);
//! - functions that make times of something else are told the zone ([`rewrite`]).
//!
//! Calendar functions use their argument's zone, so these follow by themselves.

use super::spell::call;
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Value, VisitMut, VisitorMut,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_base::{Error, err};
use weir_format::types::Type;

/// A zone's name as the session may have it.
///
/// # Errors
/// Code 36: there is no such zone.
pub fn check_zone(name: &str) -> Result<(), Error> {
    match name.parse::<chrono_tz::Tz>() {
        Ok(_) => Ok(()),
        Err(_) => Err(err!(
            BadArguments,
            "unknown time zone '{name}'; zones are named as in the IANA database, for example Europe/Berlin"
        )),
    }
}

/// The type with `zone` wherever a time has none.
pub fn zoned(t: &Type, zone: &Arc<str>) -> Type {
    let boxed = |t: &Type| Box::new(zoned(t, zone));
    match t {
        Type::DateTime(None) => Type::DateTime(Some(zone.clone())),
        Type::DateTime64(p, None) => Type::DateTime64(*p, Some(zone.clone())),
        Type::Nullable(t) => Type::Nullable(boxed(t)),
        Type::LowCardinality(t) => Type::LowCardinality(boxed(t)),
        Type::Array(t) => Type::Array(boxed(t)),
        Type::Map(k, v) => Type::Map(boxed(k), boxed(v)),
        Type::Tuple(fields) => {
            Type::Tuple(fields.iter().map(|(name, t)| (name.clone(), zoned(t, zone))).collect())
        }
        other => other.clone(),
    }
}

/// Tells functions the zone that they would take as UTC. Names are spelled as registered.
pub(crate) fn rewrite(node: &mut impl VisitMut, zone: &str) {
    let _ = node.visit(&mut Pass(zone));
}

struct Pass<'a>(&'a str);

impl VisitorMut for Pass<'_> {
    type Break = ();
    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(f) = e else { return ControlFlow::Continue(()) };
        let Some(name) = f.name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.clone()) else {
            return ControlFlow::Continue(());
        };
        let zone = || super::spell::string(self.0);
        let given = arguments(f);
        match (name.as_str(), given) {
            ("to_datetime" | "to_datetime_or_null" | "to_datetime_or_zero", 1)
            | ("to_datetime64" | "to_datetime64_or_null" | "to_datetime64_or_zero" | "to_time", 2)
            | ("now" | "current_timestamp", 0)
            | ("now64", 1) => push(f, zone()),
            ("to_datetime64" | "to_datetime64_or_null" | "to_datetime64_or_zero" | "to_time", 1)
            | ("now64", 0) => {
                push(f, super::spell::number("3"));
                push(f, zone());
            }
            (
                "from_unix_timestamp"
                | "from_unix_timestamp64_milli"
                | "from_unix_timestamp64_micro"
                | "from_unix_timestamp64_nano",
                1,
            ) => {
                let inner = std::mem::replace(e, Expr::Value(Value::Null.into()));
                *e = call("to_timezone", vec![inner, zone()]);
            }
            ("today" | "yesterday", 0) => {
                let today = call("to_date", vec![call("now", vec![zone()])]);
                *e = if name == "today" {
                    today
                } else {
                    call("subtract_days", vec![today, super::spell::number("1")])
                };
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// How many plain arguments; more than any function has for what is not a plain list.
fn arguments(f: &Function) -> usize {
    match &f.args {
        FunctionArguments::List(list) => list.args.len(),
        FunctionArguments::None => 0,
        FunctionArguments::Subquery(_) => usize::MAX,
    }
}

fn push(f: &mut Function, e: Expr) {
    if let FunctionArguments::List(list) = &mut f.args {
        list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(e)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_without_a_zone_get_the_session_s() {
        let zone: Arc<str> = "Asia/Tokyo".into();
        for (from, to) in [
            ("datetime", "datetime('Asia/Tokyo')"),
            ("datetime('UTC')", "datetime('UTC')"),
            ("nullable(datetime64(3))", "nullable(datetime64(3, 'Asia/Tokyo'))"),
            ("array(tuple(a datetime, b string))", "array(tuple(a datetime('Asia/Tokyo'), b string))"),
            ("map(string, datetime64(6))", "map(string, datetime64(6, 'Asia/Tokyo'))"),
            ("date", "date"),
        ] {
            let t = Type::parse(from).unwrap();
            assert_eq!(zoned(&t, &zone), Type::parse(to).unwrap(), "{from}");
        }
        check_zone("Europe/Berlin").unwrap();
        assert_eq!(check_zone("Europe/Atlantis").unwrap_err().code.number(), 36);
    }
}
