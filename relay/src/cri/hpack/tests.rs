use super::*;
use proptest::prelude::*;

fn field(name: &str, value: &str) -> Header {
    Header {
        name: Bytes::copy_from_slice(name.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        sensitive: false,
    }
}

fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

/// The three requests of RFC 7541, C.4 (Huffman coded, sharing one table).
#[test]
fn the_requests_of_the_standard_decode() {
    let mut decoder = Decoder::new(1 << 16);
    let first = decoder
        .decode(&hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"))
        .unwrap();
    assert_eq!(find(&first, ":authority").unwrap(), b"www.example.com");
    let second = decoder
        .decode(&hex("8286 84be 5886 a8eb 1064 9cbf"))
        .unwrap();
    assert_eq!(find(&second, "cache-control").unwrap(), b"no-cache");
    assert_eq!(find(&second, ":authority").unwrap(), b"www.example.com");
    let third = decoder
        .decode(&hex(
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ))
        .unwrap();
    assert_eq!(find(&third, ":path").unwrap(), b"/index.html");
    assert_eq!(find(&third, "custom-key").unwrap(), b"custom-value");
    assert_eq!(decoder.size, 164);
}

#[test]
fn a_small_table_evicts_its_oldest_entries() {
    let mut decoder = Decoder::new(1 << 16);
    decoder.announce(4096);
    decoder.decode(&hex("3f 11 40 01 61 01 62")).unwrap(); // limit 48: one entry of 34 fits
    decoder.decode(&hex("40 01 63 01 64")).unwrap();
    assert_eq!(decoder.decode(&hex("be")).unwrap(), [field("c", "d")]);
    assert_eq!(decoder.decode(&hex("bf")), Err(HpackError::Index(63)));
}

#[test]
fn broken_blocks_are_errors() {
    let mut decoder = Decoder::new(64);
    assert_eq!(decoder.decode(&hex("80")), Err(HpackError::Index(0)));
    assert_eq!(decoder.decode(&hex("40")), Err(HpackError::Truncated));
    assert_eq!(
        decoder.decode(&hex("ff ff ff ff ff ff")),
        Err(HpackError::Number)
    );
    assert_eq!(
        decoder.decode(&hex("00 01 61 81 00")),
        Err(HpackError::Huffman)
    );
    assert_eq!(
        decoder.decode(&hex("3f e2 1f")),
        Err(HpackError::Resize(4097))
    );
    let long = hex(&format!("00 01 61 7f 00 {}", "61".repeat(127)));
    assert_eq!(decoder.decode(&long), Err(HpackError::TooLarge(64)));
}

#[test]
fn a_sensitive_field_stays_sensitive() {
    let secret = Header {
        sensitive: true,
        ..field("authorization", "token")
    };
    let mut out = BytesMut::new();
    encode(std::slice::from_ref(&secret), &mut out);
    assert_eq!(Decoder::new(1024).decode(&out.freeze()).unwrap(), [secret]);
}

#[test]
fn what_was_said_before_costs_an_octet_a_field() {
    let list = [
        field(":method", "POST"),
        field(":path", "/runtime.v1.RuntimeService/Version"),
        field("grpc-timeout", "2S"),
        field("te", "trailers"),
    ];
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(1 << 16));
    let mut lens = Vec::new();
    for _ in 0..3 {
        let mut out = BytesMut::new();
        encoder.encode(&list, &mut out);
        lens.push(out.len());
        assert_eq!(decoder.decode(&out.freeze()).unwrap(), list);
    }
    // The timeout, which is another one in every call, is written out each time.
    assert_eq!(lens[1..], [3 + 1 + 13 + 3; 2]);
    assert_eq!(decoder.table.len(), 2);
}

#[test]
fn a_smaller_table_is_told_once_and_kept_to() {
    let list = [field("a", "b")];
    let mut encoder = Encoder::default();
    encoder.encode(&list, &mut BytesMut::new());
    encoder.announce(200);
    encoder.announce(100);
    encoder.announce(4096);
    let mut out = BytesMut::new();
    encoder.encode(&list, &mut out);
    assert_eq!(out.freeze(), hex("3f 45 be")); // "limit 100", and the entry is still there
    encoder.announce(0);
    for wanted in ["20 00 01 61 01 62", "00 01 61 01 62"] {
        let mut out = BytesMut::new();
        encoder.encode(&list, &mut out);
        assert_eq!(out.freeze(), hex(wanted));
    }
}

/// Fields of which many come again.
fn some_field() -> impl Strategy<Value = Header> {
    let name = "[a-c]|:path|:status|content-type|grpc-timeout|[a-z]{20}";
    let value = prop_oneof!["[a-c]?", "200", "[a-z]{0,300}", "[a-b]{1500}"];
    (name, value, any::<u8>()).prop_map(|(name, value, odd)| Header {
        sensitive: odd < 8,
        ..field(&name, &value)
    })
}

proptest! {
    #[test]
    fn blocks_of_one_connection_decode_to_the_same_beside_blocks_that_touch_no_table(
        blocks in proptest::collection::vec(
            (proptest::collection::vec(some_field(), 0..12), 0..5_u8, 0_usize..5000), 1..60),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(1 << 20));
        for (list, how, limit) in blocks {
            let mut out = BytesMut::new();
            match how {
                0 => encode(&list, &mut out),
                1 => {
                    encoder.announce(limit);
                    encoder.encode(&list, &mut out);
                }
                _ => encoder.encode(&list, &mut out),
            }
            prop_assert_eq!(decoder.decode(&out.freeze()).unwrap(), list);
            prop_assert!(encoder.size <= encoder.limit && encoder.table.len() <= REMEMBERED);
            // Nothing is counted on that the peer may have dropped.
            let held = decoder.table.iter().take(encoder.table.len());
            let known = encoder.table.iter().map(|h| (&h.name, &h.value));
            prop_assert!(held.map(|(n, v)| (n, v)).eq(known));
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same(
        fields in proptest::collection::vec(
            ("[:a-z-]{1,20}|:path|:status|content-type", proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
    ) {
        let list: Vec<Header> = fields.into_iter().map(|(name, value)| Header {
            name: Bytes::from(name), value: Bytes::from(value), sensitive: false,
        }).collect();
        let mut out = BytesMut::new();
        encode(&list, &mut out);
        prop_assert_eq!(Decoder::new(1 << 20).decode(&out.freeze()).unwrap(), list);
    }

    #[test]
    fn huffman_code_comes_back(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(huffman::decode(&huffman::encode(&plain)).unwrap(), plain);
    }

    #[test]
    fn random_octets_never_panic(blocks in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..64), 1..8)) {
        let mut decoder = Decoder::new(1 << 16);
        for block in blocks {
            drop(decoder.decode(&Bytes::from(block)));
            prop_assert!(decoder.size <= decoder.limit);
        }
    }
}
