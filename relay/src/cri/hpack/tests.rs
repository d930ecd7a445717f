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

proptest! {
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
