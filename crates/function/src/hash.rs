//! Hashes and identifiers. Non-cryptographic hashes take any values and hash them in order.

use crate::World;
use crate::scalar::{Args, Scalar, Want, args, many, opt};
use crate::string::hex_of;
use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, PrimitiveArray, StringArray};
use arrow::datatypes::{DataType, UInt32Type, UInt64Type};
use datafusion::common::{Result, exec_err};
use std::hash::Hasher;
use std::sync::Arc;
use weir_format::types::Type;

const VALUES: Args = many(&[Want::Any]);

/// The bytes of row `i`: text as it is, numbers little endian.
fn bytes_of(array: &ArrayRef, i: usize, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    match array.data_type() {
        DataType::Utf8 => out.extend_from_slice(array.as_string::<i32>().value(i).as_bytes()),
        DataType::Binary => out.extend_from_slice(array.as_binary::<i32>().value(i)),
        DataType::FixedSizeBinary(_) => out.extend_from_slice(array.as_fixed_size_binary().value(i)),
        DataType::Boolean => out.push(u8::from(array.as_boolean().value(i))),
        t => match t.primitive_width() {
            Some(width) => {
                let data = array.to_data();
                let start = (data.offset() + i) * width;
                out.extend_from_slice(&data.buffers()[0].as_slice()[start..start + width]);
            }
            None => return exec_err!("values of type {t} can not be hashed; use to_string"),
        },
    }
    Ok(())
}

fn hash64(name: &'static str, docs: &'static str, f: fn(&[u8]) -> u64) -> Scalar {
    Scalar::new(name, "f(x, …)", docs, VALUES, Type::UInt64, move |call| {
        let mut bytes = Vec::new();
        let mut out = Vec::with_capacity(call.rows);
        for i in 0..call.rows {
            let mut hash = None;
            for a in &call.args {
                if a.is_valid(i) {
                    bytes_of(a, i, &mut bytes)?;
                    let h = f(&bytes);
                    hash = Some(hash.map_or(h, |before: u64| {
                        before.rotate_left(5).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ h
                    }));
                }
            }
            out.push(hash.unwrap_or(0));
        }
        Ok(Arc::new(PrimitiveArray::<UInt64Type>::from(out)))
    })
}

fn sip(bytes: &[u8]) -> u64 {
    let mut h = siphasher::sip::SipHasher24::new();
    h.write(bytes);
    h.finish()
}

pub(crate) fn functions(world: &World) -> Vec<Scalar> {
    let rng = world.rng.clone();
    vec![
        hash64("sip_hash64", "SipHash-2-4", sip),
        hash64("xx_hash64", "xxHash64 with seed 0", |b| xxhash_rust::xxh64::xxh64(b, 0)),
        hash64("xxh3", "XXH3 64 bits", xxhash_rust::xxh3::xxh3_64),
        Scalar::new(
            "weak_hash32",
            "weak_hash32(x, …)",
            "CRC-32C of the values: quick, for sharding",
            VALUES,
            Type::UInt32,
            |call| {
                let mut bytes = Vec::new();
                let mut out = Vec::with_capacity(call.rows);
                for i in 0..call.rows {
                    let mut h = 0u32;
                    for a in call.args.iter().filter(|a| a.is_valid(i)) {
                        bytes_of(a, i, &mut bytes)?;
                        h = crc32c::crc32c_append(h, &bytes);
                    }
                    out.push(h);
                }
                Ok(Arc::new(PrimitiveArray::<UInt32Type>::from(out)))
            },
        )
        .own_nulls(),
        Scalar::new(
            "md5_hex",
            "md5_hex(s)",
            "MD5 in lower-case hexadecimal",
            args(&[Want::Str]),
            Type::String,
            |call| {
                use md5::Digest;
                let rows = call.str(0).iter().map(|s| s.map(|s| hex_of(&md5::Md5::digest(s)).to_lowercase()));
                Ok(Arc::new(rows.collect::<StringArray>()))
            },
        ),
        Scalar::new(
            "generate_uuid_v4",
            "generate_uuid_v4()",
            "a random UUID for each row",
            opt(&[Want::Any], 1),
            Type::Uuid,
            move |call| {
                let mut bytes = vec![0u8; call.rows * 16];
                rng.fill(&mut bytes);
                for id in bytes.chunks_mut(16) {
                    id[6] = (id[6] & 0x0F) | 0x40;
                    id[8] = (id[8] & 0x3F) | 0x80;
                }
                Ok(Arc::new(FixedSizeBinaryArray::try_new(16, bytes.into(), None)?))
            },
        )
        .aliases(&["uuid", "generate_uuidv4"])
        .volatile(),
    ]
}
