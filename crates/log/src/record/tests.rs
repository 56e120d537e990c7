use super::*;
use proptest::prelude::*;

fn header(id: Option<String>, payload: &[u8], offset: u64) -> Header {
    Header {
        kind: RecordKind::ROWS,
        base: SeqNo(41),
        rows: 7,
        append_time: AppendTime(-5),
        event_min: EventTime(i64::MIN),
        event_max: EventTime(i64::MAX),
        idempotency: id.map(|id| Idempotency { id: id.into(), record_no: 3, content_hash: u64::MAX }),
        progress: None,
        payload_len: payload.len() as u32,
        payload_crc: crc32c::crc32c(payload),
        durable_end: SeqNo(40),
        durable_offset: offset,
    }
}

fn framed(header: &Header, payload: &[u8], salt: u64, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode(salt, offset, &mut bytes);
    assert_eq!(bytes.len() as u64, header.header_len());
    bytes.extend_from_slice(payload);
    bytes.resize(header.record_len() as usize, 0);
    bytes
}

proptest! {
    #[test]
    fn a_record_reads_back(id in proptest::option::of("[a-zé]{0,80}"), payload in proptest::collection::vec(any::<u8>(), 0..300), salt: u64) {
        let header = header(id, &payload, 128);
        let bytes = framed(&header, &payload, salt, 128);
        prop_assert_eq!(bytes.len() % 64, 0);
        let (back, found) = decode_record(&Bytes::from(bytes), salt, 128).unwrap();
        prop_assert_eq!(back, header);
        prop_assert_eq!(&found[..], &payload[..]);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), salt: u64, offset in 0u64..1 << 40) {
        let _ = decode_record(&Bytes::from(bytes), salt, offset);
    }

    #[test]
    fn nor_do_bytes_behind_a_good_checksum(mut bytes in proptest::collection::vec(any::<u8>(), 84..400), salt: u64) {
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        let used = (HEADER_FIXED + usize::from(bytes[6])).min(bytes.len());
        let crc = header_crc(salt, 64, &bytes[..used]).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
        let _ = decode_record(&Bytes::from(bytes), salt, 64);
    }

    #[test]
    fn a_flipped_bit_is_noticed_or_lies_in_padding(bit in 0usize..8, at in 0usize..320) {
        let payload = [5; 100];
        let good = header(Some("some-id".into()), &payload, 64);
        let mut bytes = framed(&good, &payload, 9, 64);
        prop_assume!(at < bytes.len());
        bytes[at] ^= 1 << bit;
        match decode_record(&Bytes::from(bytes), 9, 64) {
            Err(_) => {}
            Ok((header, found)) => {
                prop_assert_eq!(header, good);
                prop_assert_eq!(&found[..], &payload[..]);
            }
        }
    }
}

#[test]
fn a_record_is_one_only_where_it_was_written() {
    let header = header(None, b"x", 64);
    let bytes = Bytes::from(framed(&header, b"x", 1, 64));
    assert!(decode_record(&bytes, 1, 64).is_ok());
    assert!(decode_record(&bytes, 1, 128).is_err(), "copied to another offset");
    assert!(decode_record(&bytes, 2, 64).is_err(), "copied to another segment");
    assert_eq!(
        decode_record(&bytes.slice(..100), 1, 64),
        Ok((header, Bytes::from_static(b"x"))).and(Err(Damage::Short(129)))
    );
}
