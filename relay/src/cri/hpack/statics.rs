//! The static table (RFC 7541, appendix A).

/// Name and value of entries 1 to 61.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Index of the entry with this name and value. Of those with a value only pseudo headers are looked at: what
/// else there is, no gRPC peer sends.
pub(super) fn exact(name: &[u8], value: &[u8]) -> Option<usize> {
    if name.first() != Some(&b':') {
        return None;
    }
    let same = |(n, v): &(&str, &str)| n.as_bytes() == name && v.as_bytes() == value;
    STATIC[..PSEUDO].iter().position(same).map(|at| at + 1)
}

/// Index of the first entry with this name.
pub(super) fn named(name: &[u8]) -> Option<usize> {
    let same = |(n, _): &(&str, &str)| n.as_bytes() == name;
    STATIC.iter().position(same).map(|at| at + 1)
}

/// Entries for pseudo headers, the first ones.
const PSEUDO: usize = 14;
