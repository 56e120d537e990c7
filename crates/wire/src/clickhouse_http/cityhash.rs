//! CityHash128 in its version 1.0.2, the checksum of ClickHouse's compressed blocks. Later
//! versions of CityHash give other values. Pure.

const K0: u64 = 0xc3a5_c85c_97cb_3127;
const K1: u64 = 0xb492_b66f_be98_f273;
const K2: u64 = 0x9ae1_6a3b_2f90_404f;
const K3: u64 = 0xc949_d7c7_509e_6557;
const MUL: u64 = 0x9ddf_ea08_eb38_2d69;

fn at64(s: &[u8], i: usize) -> u64 {
    u64::from_le_bytes(s[i..i + 8].try_into().expect("eight bytes"))
}

fn at32(s: &[u8], i: usize) -> u64 {
    u64::from(u32::from_le_bytes(s[i..i + 4].try_into().expect("four bytes")))
}

fn shift_mix(v: u64) -> u64 {
    v ^ (v >> 47)
}

fn len16(u: u64, v: u64) -> u64 {
    let a = shift_mix((u ^ v).wrapping_mul(MUL));
    shift_mix((v ^ a).wrapping_mul(MUL)).wrapping_mul(MUL)
}

/// Hash of at most 16 bytes.
fn short(s: &[u8]) -> u64 {
    let n = s.len();
    match n {
        9.. => {
            let (a, b) = (at64(s, 0), at64(s, n - 8));
            len16(a, b.wrapping_add(n as u64).rotate_right(n as u32)) ^ b
        }
        4..=8 => len16((n as u64).wrapping_add(at32(s, 0) << 3), at32(s, n - 4)),
        1..=3 => {
            let (a, b, c) = (s[0], s[n >> 1], s[n - 1]);
            let y = u64::from(u32::from(a) + (u32::from(b) << 8));
            let z = u64::from(n as u32 + (u32::from(c) << 2));
            shift_mix(y.wrapping_mul(K2) ^ z.wrapping_mul(K3)).wrapping_mul(K2)
        }
        0 => K2,
    }
}

fn weak32(s: &[u8], i: usize, a: u64, b: u64) -> (u64, u64) {
    let (w, x, y, z) = (at64(s, i), at64(s, i + 8), at64(s, i + 16), at64(s, i + 24));
    let a = a.wrapping_add(w);
    let mut b = b.wrapping_add(a).wrapping_add(z).rotate_right(21);
    let c = a;
    let a = a.wrapping_add(x).wrapping_add(y);
    b = b.wrapping_add(a.rotate_right(44));
    (a.wrapping_add(z), b.wrapping_add(c))
}

/// For fewer than 128 bytes.
fn murmur(s: &[u8], seed: (u64, u64)) -> (u64, u64) {
    let n = s.len();
    let (mut a, mut b) = seed;
    let (mut c, mut d);
    if n <= 16 {
        a = shift_mix(a.wrapping_mul(K1)).wrapping_mul(K1);
        c = b.wrapping_mul(K1).wrapping_add(short(s));
        d = shift_mix(a.wrapping_add(if n >= 8 { at64(s, 0) } else { c }));
    } else {
        c = len16(at64(s, n - 8).wrapping_add(K1), a);
        d = len16(b.wrapping_add(n as u64), c.wrapping_add(at64(s, n - 16)));
        a = a.wrapping_add(d);
        let (mut i, mut left) = (0, n as i64 - 16);
        while left > 0 {
            a = (a ^ shift_mix(at64(s, i).wrapping_mul(K1)).wrapping_mul(K1)).wrapping_mul(K1);
            b ^= a;
            c = (c ^ shift_mix(at64(s, i + 8).wrapping_mul(K1)).wrapping_mul(K1)).wrapping_mul(K1);
            d ^= c;
            i += 16;
            left -= 16;
        }
    }
    a = len16(a, c);
    b = len16(d, b);
    (a ^ b, len16(b, a))
}

fn with_seed(s: &[u8], seed: (u64, u64)) -> (u64, u64) {
    let n = s.len();
    if n < 128 {
        return murmur(s, seed);
    }
    let (mut x, mut y) = seed;
    let mut z = (n as u64).wrapping_mul(K1);
    let v0 = (y ^ K1).rotate_right(49).wrapping_mul(K1).wrapping_add(at64(s, 0));
    let mut v = (v0, v0.rotate_right(42).wrapping_mul(K1).wrapping_add(at64(s, 8)));
    let w0 = y.wrapping_add(z).rotate_right(35).wrapping_mul(K1).wrapping_add(x);
    let mut w = (w0, x.wrapping_add(at64(s, 88)).rotate_right(53).wrapping_mul(K1));
    let mut i = 0;
    let mut left = n;
    while left >= 128 {
        for _ in 0..2 {
            x = x
                .wrapping_add(y)
                .wrapping_add(v.0)
                .wrapping_add(at64(s, i + 16))
                .rotate_right(37)
                .wrapping_mul(K1);
            y = y.wrapping_add(v.1).wrapping_add(at64(s, i + 48)).rotate_right(42).wrapping_mul(K1);
            x ^= w.1;
            y ^= v.0;
            z = (z ^ w.0).rotate_right(33);
            v = weak32(s, i, v.1.wrapping_mul(K1), x.wrapping_add(w.0));
            w = weak32(s, i + 32, z.wrapping_add(w.1), y);
            std::mem::swap(&mut z, &mut x);
            i += 64;
        }
        left -= 128;
    }
    y = y.wrapping_add(w.0.rotate_right(37).wrapping_mul(K0)).wrapping_add(z);
    x = x.wrapping_add(v.0.wrapping_add(z).rotate_right(49).wrapping_mul(K0));
    let mut done = 0;
    while done < left {
        done += 32;
        let from = i + left - done;
        y = y.wrapping_sub(x).rotate_right(42).wrapping_mul(K0).wrapping_add(v.1);
        w.0 = w.0.wrapping_add(at64(s, from + 16));
        x = x.rotate_right(49).wrapping_mul(K0).wrapping_add(w.0);
        w.0 = w.0.wrapping_add(v.0);
        v = weak32(s, from, v.0, v.1);
    }
    x = len16(x, v.0);
    y = len16(y, w.0);
    (len16(x.wrapping_add(v.1), w.1).wrapping_add(y), len16(x.wrapping_add(w.1), y.wrapping_add(v.1)))
}

/// The hash as (first, second) word; both go out little-endian in this order.
pub fn cityhash128(s: &[u8]) -> (u64, u64) {
    let n = s.len();
    if n >= 16 {
        with_seed(&s[16..], (at64(s, 0) ^ K3, at64(s, 8)))
    } else if n >= 8 {
        let seed = (at64(s, 0) ^ (n as u64).wrapping_mul(K0), at64(s, n - 8) ^ K1);
        with_seed(&[], seed)
    } else {
        with_seed(s, (K0, K1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_clients_own_library() {
        // Values of the Python package clickhouse-cityhash 1.0.2.5: first word high.
        let cases: &[(Vec<u8>, u128)] = &[
            (vec![], 82332263323914296566372529678324145705),
            (b"a".to_vec(), 279725777567359144512642526446120103158),
            (b"abc".to_vec(), 191491615738686005514802259311635598718),
            (b"weir stream!".to_vec(), 251070305504031389405777391203766308229),
            (b"0123456789abcdef".to_vec(), 262100040054819013966032710538504887884),
            (b"0123456789abcdefg".to_vec(), 42729472107733922335306066887246832863),
            ((0..100).collect(), 174683658618425936748244741835677568761),
            ((0..127u32).map(|i| (i % 251) as u8).collect(), 147029938072150206447740045894254765848),
            ((0..128u32).map(|i| (i % 251) as u8).collect(), 167394526505469555737411128892360134712),
            ((0..129u32).map(|i| (i % 251) as u8).collect(), 197258146609368416045031081914327048225),
            ((0..1000u32).map(|i| (i * 7 % 251) as u8).collect(), 104388393598650817852773148790920581334),
        ];
        for (bytes, expected) in cases {
            let (first, second) = cityhash128(bytes);
            let got = (u128::from(first) << 64) | u128::from(second);
            assert_eq!(got, *expected, "{} bytes", bytes.len());
        }
    }
}
