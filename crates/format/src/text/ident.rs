//! UUIDs and addresses to text and back.

use super::number::write_int;
use std::net::{Ipv4Addr, Ipv6Addr};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends the 36 characters of a UUID given as 16 bytes, big endian.
pub(crate) fn write_uuid(v: &[u8], out: &mut Vec<u8>) {
    for (i, b) in v.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(HEX[usize::from(b >> 4)]);
        out.push(HEX[usize::from(b & 15)]);
    }
}

/// Reads 32 hexadecimal digits, with or without dashes in the usual places, in braces or not.
pub(crate) fn read_uuid(text: &[u8]) -> Option<[u8; 16]> {
    uuid::Uuid::try_parse_ascii(text).ok().map(uuid::Uuid::into_bytes)
}

pub(crate) fn write_ipv4(v: u32, out: &mut Vec<u8>) {
    for (i, part) in v.to_be_bytes().into_iter().enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        write_int(part, out);
    }
}

pub(crate) fn read_ipv4(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse::<Ipv4Addr>().ok().map(u32::from)
}

pub(crate) fn write_ipv6(v: &[u8], out: &mut Vec<u8>) {
    use std::io::Write;
    let bytes: [u8; 16] = v.try_into().expect("storage of ipv6 is 16 bytes wide");
    write!(out, "{}", Ipv6Addr::from(bytes)).expect("writing to a Vec cannot fail");
}

/// Reads an IPv6 address, or an IPv4 one as its mapped form.
pub(crate) fn read_ipv6(text: &[u8]) -> Option<[u8; 16]> {
    let text = std::str::from_utf8(text).ok()?;
    match text.parse::<Ipv6Addr>() {
        Ok(v6) => Some(v6.octets()),
        Err(_) => text.parse::<Ipv4Addr>().ok().map(|v4| v4.to_ipv6_mapped().octets()),
    }
}
