//! What is shown to nobody: values of settings whose names say so.

/// Stands for a secret.
pub(crate) const HIDDEN: &str = "[HIDDEN]";

/// Whether values under this name are secrets, whoever they belong to.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "credential"].iter().any(|part| name.contains(part))
        || name.starts_with("http_header_")
        || ["properties", "ssl_ca_pem", "ssl_key_pem"].contains(&name.as_str())
}

/// A statement's text with the values of `name = '…'` hidden where the name says that they are secrets. What is
/// not closed is hidden to the end.
pub(crate) fn masked(text: &str) -> String {
    // A named collection is made to hold secrets, under whatever names.
    let mut words = text.split_whitespace();
    let collection =
        words.next().is_some_and(|w| w.eq_ignore_ascii_case("CREATE") || w.eq_ignore_ascii_case("ALTER"))
            && words.take(4).any(|w| w.eq_ignore_ascii_case("COLLECTION"));
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // The identifier before `=`, as long as nothing else came between.
    let (mut name, mut assigned) = (String::new(), false);
    while let Some(c) = rest.chars().next() {
        match c {
            '\'' => {
                let end = literal_end(rest);
                if assigned && (collection || is_secret(&name)) {
                    out.push('\'');
                    out.push_str(HIDDEN);
                    out.push('\'');
                } else {
                    out.push_str(&rest[..end]);
                }
                rest = &rest[end..];
                (name, assigned) = (String::new(), false);
            }
            c if c.is_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                // A value without quotes: a number, or in a collection a word.
                let value = assigned && (collection || is_secret(&name) && c.is_numeric());
                out.push_str(if value { HIDDEN } else { &rest[..end] });
                (name, assigned) = (rest[..end].to_owned(), false);
                rest = &rest[end..];
            }
            c => {
                match c {
                    '=' => assigned = !name.is_empty(),
                    c if c.is_whitespace() || c == '`' || c == '"' => {}
                    _ => (name, assigned) = (String::new(), false),
                }
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

/// One past the quote that closes the literal a text begins with.
fn literal_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_hidden() {
        let cases = [
            ("SELECT 'password', password FROM t", "SELECT 'password', password FROM t"),
            ("SETTINGS password='a''b\\'c', topic='t'", "SETTINGS password='[HIDDEN]', topic='t'"),
            ("SETTINGS `Password` = 'x'", "SETTINGS `Password` = '[HIDDEN]'"),
            ("properties = 'sasl.password=x;a=b'", "properties = '[HIDDEN]'"),
            ("aws_secret_access_key='q", "aws_secret_access_key='[HIDDEN]'"),
            ("WHERE token = lower('x')", "WHERE token = lower('x')"),
            (
                "create or replace NAMED COLLECTION c AS a='b', c=1",
                "create or replace NAMED COLLECTION c AS a='[HIDDEN]', c=[HIDDEN]",
            ),
            ("SETTINGS password=123, topic=1", "SETTINGS password=[HIDDEN], topic=1"),
            ("WHERE é = 'ö' AND a='b'", "WHERE é = 'ö' AND a='b'"),
        ];
        for (text, expected) in cases {
            assert_eq!(masked(text), expected);
        }
    }
}
