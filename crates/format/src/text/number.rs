//! Numbers to text and back, without intermediate strings.

/// Appends an integer.
#[inline]
pub(crate) fn write_int<I: itoa::Integer>(v: I, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
}

/// Appends a float as ClickHouse writes it: shortest digits that read back the same, plain
/// notation from 1e-6 up to 1e21, `nan`, `inf`, `-inf`.
pub(crate) fn write_float<F: ryu::Float + Into<f64> + Copy>(v: F, out: &mut Vec<u8>) {
    let wide: f64 = v.into();
    if wide.is_nan() {
        out.extend_from_slice(b"nan");
        return;
    }
    if wide.is_infinite() {
        out.extend_from_slice(if wide > 0.0 { b"inf" } else { b"-inf" });
        return;
    }
    if wide.fract() == 0.0 && wide.abs() < 1e15 && !(wide == 0.0 && wide.is_sign_negative()) {
        write_int(wide as i64, out);
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(v);
    let Some(e) = text.find('e') else {
        out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
        return;
    };
    let exponent: i32 = text[e + 1..].parse().expect("ryu writes a decimal exponent");
    let mantissa = &text[..e];
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(m) => ("-", m),
        None => ("", mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = if fraction == "0" { "" } else { fraction };
    out.extend_from_slice(sign.as_bytes());
    // One digit stands before the point.
    if (0..21).contains(&exponent) {
        out.extend_from_slice(whole.as_bytes());
        let shift = exponent as usize;
        if fraction.len() <= shift {
            out.extend_from_slice(fraction.as_bytes());
            out.resize(out.len() + shift - fraction.len(), b'0');
        } else {
            out.extend_from_slice(&fraction.as_bytes()[..shift]);
            out.push(b'.');
            out.extend_from_slice(&fraction.as_bytes()[shift..]);
        }
    } else if (-6..0).contains(&exponent) {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + (-exponent - 1) as usize, b'0');
        out.extend_from_slice(whole.as_bytes());
        out.extend_from_slice(fraction.as_bytes());
    } else {
        out.extend_from_slice(whole.as_bytes());
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction.as_bytes());
        }
        out.push(b'e');
        write_int(exponent, out);
    }
}

/// Appends a decimal of `scale` digits after the point, without trailing zeros.
pub(crate) fn write_decimal(v: i128, scale: u8, out: &mut Vec<u8>) {
    let unit = 10u128.pow(u32::from(scale));
    let magnitude = v.unsigned_abs();
    if v < 0 {
        out.push(b'-');
    }
    write_int(magnitude / unit, out);
    let mut fraction = magnitude % unit;
    if fraction != 0 {
        let mut digits = usize::from(scale);
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            digits -= 1;
        }
        out.push(b'.');
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(fraction);
        out.resize(out.len() + digits - text.len(), b'0');
        out.extend_from_slice(text.as_bytes());
    }
}

/// Integers that text can be read into.
pub(crate) trait Int: Copy {
    /// Reads all of `text`: an optional sign and digits.
    fn read(text: &[u8]) -> Result<Self, IntError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntError {
    NotANumber,
    OutOfRange,
}

fn magnitude(text: &[u8]) -> Result<(bool, u64), IntError> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(IntError::NotANumber);
    }
    let mut v = 0u64;
    if digits.len() <= 19 {
        for d in digits {
            v = v * 10 + u64::from(d - b'0');
        }
    } else {
        for d in digits {
            v = v
                .checked_mul(10)
                .and_then(|v| v.checked_add(u64::from(d - b'0')))
                .ok_or(IntError::OutOfRange)?;
        }
    }
    Ok((negative, v))
}

macro_rules! ints {
    ($($t:ty)*) => {$(
        impl Int for $t {
            #[inline]
            fn read(text: &[u8]) -> Result<Self, IntError> {
                let (negative, v) = magnitude(text)?;
                let wide = if negative { -i128::from(v) } else { i128::from(v) };
                <$t>::try_from(wide).map_err(|_| IntError::OutOfRange)
            }
        }
    )*};
}
ints!(i8 i16 i32 i64 u8 u16 u32 u64);

/// Powers of ten that are exact as floats.
pub(crate) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Reads all of `text` as a float, the nearest one. Takes `nan`, `inf`, `infinity` in any case.
pub(crate) fn read_float(text: &[u8]) -> Option<f64> {
    // Short decimals are exact as integer over power of ten; others go the long way.
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mut mantissa, mut digits, mut fraction, mut at) = (0u64, 0usize, 0usize, 0usize);
    let mut point = false;
    while let Some(c) = rest.get(at) {
        match c {
            b'0'..=b'9' if digits < 18 => {
                mantissa = mantissa * 10 + u64::from(c - b'0');
                digits += 1;
                fraction += usize::from(point);
            }
            b'.' if !point => point = true,
            _ => break,
        }
        at += 1;
    }
    if at == rest.len() && digits > 0 && mantissa < (1 << 53) && fraction <= 22 {
        let v = mantissa as f64 / POWERS[fraction];
        return Some(if negative { -v } else { v });
    }
    // `+5`, `.5` and `5.` are fine for std, and so are inf and nan; hexadecimal is for no one.
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads all of `text` as a float32, rounded once.
pub(crate) fn read_float32(text: &[u8]) -> Option<f32> {
    let v = read_float(text)?;
    if v.is_finite() && v.fract() == 0.0 && v.abs() < 16_777_216.0 {
        return Some(v as f32);
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads all of `text` as a decimal; digits beyond `scale` are cut, as ClickHouse does.
pub(crate) fn read_decimal(text: &[u8], precision: u8, scale: u8) -> Result<i128, IntError> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (number, exponent) = match rest.iter().position(|c| matches!(c, b'e' | b'E')) {
        Some(e) => (&rest[..e], i64::from(i16::read(&rest[e + 1..])?)),
        None => (rest, 0),
    };
    let point = number.iter().position(|c| *c == b'.');
    let (whole, fraction) = match point {
        Some(p) => (&number[..p], &number[p + 1..]),
        None => (number, &[][..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(IntError::NotANumber);
    }
    // How many digits to keep, counted from the first: the point moves by the exponent.
    let keep = whole.len() as i64 + exponent + i64::from(scale);
    let mut v = 0i128;
    let mut taken = 0i64;
    for d in whole.iter().chain(fraction) {
        if !d.is_ascii_digit() {
            return Err(IntError::NotANumber);
        }
        if taken < keep {
            v = v
                .checked_mul(10)
                .and_then(|v| v.checked_add(i128::from(d - b'0')))
                .ok_or(IntError::OutOfRange)?;
        }
        taken += 1;
    }
    while taken < keep && v != 0 {
        v = v.checked_mul(10).ok_or(IntError::OutOfRange)?;
        taken += 1;
    }
    if v >= 10i128.pow(u32::from(precision)) {
        return Err(IntError::OutOfRange);
    }
    Ok(if negative { -v } else { v })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(v: f64) -> String {
        let mut out = Vec::new();
        write_float(v, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_as_clickhouse_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-5.0, "-5"),
            (1.5, "1.5"),
            (1e21, "1e21"),
            (1e20, "100000000000000000000"),
            (123456789012345680000.0, "123456789012345680000"),
            (1e-7, "1e-7"),
            (0.00001, "0.00001"),
            (0.000001, "0.000001"),
            (1.25e-6, "0.00000125"),
            (1.234567e16, "12345670000000000"),
            (1.7976931348623157e308, "1.7976931348623157e308"),
            (-1.5e-9, "-1.5e-9"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (v, text) in cases {
            assert_eq!(float(v), text);
        }
        let mut out = Vec::new();
        write_float(0.1f32, &mut out);
        assert_eq!(out, b"0.1");
    }

    #[test]
    fn decimals_both_ways() {
        let cases = [
            ("1.50", 10, 4, Ok(15000), "1.5"),
            ("-0.05", 10, 2, Ok(-5), "-0.05"),
            ("2", 10, 2, Ok(200), "2"),
            ("1.239", 10, 2, Ok(123), "1.23"),
            ("1e3", 10, 2, Ok(100_000), "1000"),
            ("12e-1", 10, 2, Ok(120), "1.2"),
            ("100", 4, 2, Err(IntError::OutOfRange), ""),
            ("", 4, 2, Err(IntError::NotANumber), ""),
            (".", 4, 2, Err(IntError::NotANumber), ""),
            ("1x", 4, 2, Err(IntError::NotANumber), ""),
            (
                "99999999999999999999999999999999999999",
                38,
                0,
                Ok(10i128.pow(38) - 1),
                "99999999999999999999999999999999999999",
            ),
        ];
        for (text, p, s, expected, back) in cases {
            let got = read_decimal(text.as_bytes(), p, s);
            assert_eq!(got, expected, "{text}");
            if let Ok(v) = got {
                let mut out = Vec::new();
                write_decimal(v, s, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), back);
            }
        }
    }

    #[test]
    fn numbers_read_to_the_last_bit() {
        for text in ["0.1", "1e23", "9007199254740993", "-1.5", "123456789.123456789", "5e-324", "1e400"] {
            assert_eq!(read_float(text.as_bytes()), text.parse().ok(), "{text}");
        }
        assert_eq!(u64::read(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(u64::read(b"18446744073709551616"), Err(IntError::OutOfRange));
        assert_eq!(i64::read(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(u8::read(b"-1"), Err(IntError::OutOfRange));
        assert_eq!(i8::read(b"1.5"), Err(IntError::NotANumber));
    }
}
