//! Errors on their way out: the text and headers before a result, the tagged block after its
//! first byte. Pure.

use weir_base::{Error, Rng};

/// Marks an exception inside a body whose status already said 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionTag(String);

impl ExceptionTag {
    /// Sixteen random letters, so that no data can be taken for the mark.
    pub fn draw(rng: &Rng) -> Self {
        ExceptionTag((0..16).map(|_| (b'a' + rng.below(26) as u8) as char).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The block that ends a broken result. The number counts the message and its line end,
    /// as clients step back over both.
    pub fn block(&self, error: &Error) -> Vec<u8> {
        let tag = &self.0;
        let message = text(error);
        let length = message.len() + 2;
        format!("\r\n__exception__\r\n{tag}\r\n{message}\r\n{length} {tag}\r\n__exception__\r\n").into_bytes()
    }
}

/// The error as the text drivers parse.
pub fn text(error: &Error) -> String {
    error.client_text(crate::VERSION)
}

/// Finds an exception block at the end of a body; the message in it.
pub fn find<'a>(body: &'a [u8], tag: &str) -> Option<(usize, &'a str)> {
    let open = format!("\r\n__exception__\r\n{tag}\r\n");
    let close = format!(" {tag}\r\n__exception__\r\n");
    let inner = body.strip_suffix(close.as_bytes())?;
    let digits = inner.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let length: usize = std::str::from_utf8(&inner[inner.len() - digits..]).ok()?.parse().ok()?;
    let message_start = (inner.len() - digits).checked_sub(length)?;
    let start = message_start.checked_sub(open.len())?;
    if &body[start..message_start] != open.as_bytes() {
        return None;
    }
    let message = std::str::from_utf8(&body[message_start..inner.len() - digits]).ok()?;
    Some((start, message.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::err;

    #[test]
    fn the_block_is_what_clients_step_back_over() {
        let tag = ExceptionTag("abcdefghijklmnop".into());
        let error = err!(DivisionByZero, "division by zero");
        let message = text(&error);
        let mut body = b"1\n2\n".to_vec();
        body.extend(tag.block(&error));
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            format!(
                "1\n2\n\r\n__exception__\r\nabcdefghijklmnop\r\n{message}\r\n{} abcdefghijklmnop\r\n__exception__\r\n",
                message.len() + 2
            )
        );
        assert_eq!(find(&body, tag.as_str()), Some((4, message.as_str())));
        assert_eq!(find(&body, "ponmlkjihgfedcba"), None);
        assert_eq!(find(b"1\n2\n", tag.as_str()), None);
    }
}
