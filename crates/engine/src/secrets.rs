//! What is shown to nobody: values of settings whose names say so.

/// Stands for a secret.
pub(crate) const HIDDEN: &str = "[HIDDEN]";

/// Whether values under this name are secrets, whoever they belong to.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "credential"].iter().any(|part| name.contains(part))
        || ["properties", "ssl_ca_pem", "ssl_key_pem"].contains(&name.as_str())
}

/// A statement's text with the values of `name = '…'` hidden where the name says that they are secrets. What is
/// not closed is hidden to the end.
pub(crate) fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // The identifier before `=`, as long as nothing else came between.
    let (mut name, mut assigned) = (String::new(), false);
    while let Some(c) = rest.chars().next() {
        match c {
            '\'' => {
                let end = literal_end(rest);
                if assigned && is_secret(&name) {
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
                (name, assigned) = (rest[..end].to_owned(), false);
                out.push_str(&rest[..end]);
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
            ("WHERE é = 'ö' AND a='b'", "WHERE é = 'ö' AND a='b'"),
        ];
        for (text, expected) in cases {
            assert_eq!(masked(text), expected);
        }
    }
}
