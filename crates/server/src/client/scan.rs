//! Keeps a broken result's exception block out of what is shown. Pure.

use weir_wire::clickhouse_http::exception;

/// Passes bytes on, except a trailing exception block.
pub struct Scanner {
    tag: String,
    mark: Vec<u8>,
    held: Vec<u8>,
}

impl Scanner {
    pub fn new(tag: Option<&str>) -> Scanner {
        let tag = tag.unwrap_or("").to_owned();
        let mark = format!("\r\n__exception__\r\n{tag}\r\n").into_bytes();
        Scanner { tag, mark, held: Vec::new() }
    }

    /// What of the bytes so far is surely data.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        if self.tag.is_empty() {
            return std::mem::take(&mut self.held);
        }
        let sure = match self.held.windows(self.mark.len()).position(|w| w == self.mark) {
            Some(at) => at,
            // The longest end that may be the mark's beginning.
            None => (0..=self.held.len())
                .find(|at| self.mark.starts_with(&self.held[*at..]) || self.held.len() == *at)
                .unwrap_or(self.held.len()),
        };
        let rest = self.held.split_off(sure);
        std::mem::replace(&mut self.held, rest)
    }

    /// At the end: the rest of the data and the error's text, if there is one.
    pub fn finish(self) -> (Vec<u8>, Option<String>) {
        match exception::find(&self.held, &self.tag) {
            Some((at, message)) => (self.held[..at].to_vec(), Some(message.to_owned())),
            None => (self.held, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_passes_and_the_block_does_not_at_any_split() {
        let tag = "abcdefghijklmnop";
        let block = format!("\r\n__exception__\r\n{tag}\r\nCode: 153. boom\r\n17 {tag}\r\n__exception__\r\n");
        for (data, error) in [
            ("1\n2\n\r\n__exc\r\n3\n", None),
            ("", Some("Code: 153. boom")),
            ("1\r\n2\r\n", Some("Code: 153. boom")),
        ] {
            let wire = [data, if error.is_some() { block.as_str() } else { "" }].concat();
            for step in 1..=wire.len().max(1) {
                let mut scanner = Scanner::new(Some(tag));
                let mut shown = Vec::new();
                for piece in wire.as_bytes().chunks(step) {
                    shown.extend(scanner.push(piece));
                }
                let (rest, found) = scanner.finish();
                shown.extend(rest);
                assert_eq!(String::from_utf8(shown).unwrap(), data, "step {step}");
                assert_eq!(found.as_deref(), error, "step {step}");
            }
        }
    }

    #[test]
    fn rows_are_not_held_back() {
        let mut scanner = Scanner::new(Some("abcdefghijklmnop"));
        assert_eq!(scanner.push(b"[1,\"x\"]\n"), b"[1,\"x\"]\n");
    }
}
