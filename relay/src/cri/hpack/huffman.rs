//! The Huffman code of RFC 7541, appendix B. It is canonical: the lengths alone define it.

/// Code length in bits of each octet, and of the end mark (256).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const LONGEST: usize = 30;
const EOS: u16 = 256;

/// Per length: the first code, how many codes, and where their symbols begin in `symbols`.
struct Code {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [usize; LONGEST + 1],
    symbols: [u16; 257],
}

static CODE: Code = build();

#[expect(clippy::cast_possible_truncation, reason = "symbol is below 257")]
const fn build() -> Code {
    let mut code = Code {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut len, mut next, mut filled) = (1, 0_u32, 0);
    while len <= LONGEST {
        next <<= 1;
        code.first[len] = next;
        code.start[len] = filled;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == len {
                code.symbols[filled] = symbol as u16;
                code.count[len] += 1;
                filled += 1;
                next += 1;
            }
            symbol += 1;
        }
        len += 1;
    }
    code
}

/// Codes of up to 8 bits by their left-aligned octet: symbol and length; length 0 for longer codes.
static SHORT: [(u8, u8); 256] = short();

#[expect(clippy::cast_possible_truncation, reason = "octets and lengths fit")]
const fn short() -> [(u8, u8); 256] {
    let code = build();
    let mut table = [(0, 0); 256];
    let mut len = 5;
    while len <= 8 {
        let mut k = 0;
        while k < code.count[len] {
            let symbol = code.symbols[code.start[len] + k as usize] as u8;
            let low = ((code.first[len] + k) << (8 - len)) as usize;
            let mut fill = 0;
            while fill < 1 << (8 - len) {
                table[low + fill] = (symbol, len as u8);
                fill += 1;
            }
            k += 1;
        }
        len += 1;
    }
    table
}

/// Decodes `coded`; `None` when it is not Huffman code, holds the end mark or is badly padded.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut bits, mut have) = (0_u64, 0_usize);
    let mut input = coded.iter();
    loop {
        while have <= 48 {
            let Some(&octet) = input.next() else { break };
            bits = bits << 8 | u64::from(octet);
            have += 8;
        }
        if have == 0 {
            return Some(out);
        }
        if have >= 8 {
            let top = usize::from((bits >> (have - 8)).to_le_bytes()[0]);
            let (symbol, len) = SHORT[top];
            if len > 0 {
                out.push(symbol);
                have -= usize::from(len);
                continue;
            }
        }
        match long(bits, have) {
            Some((symbol, len)) => {
                out.push(symbol);
                have -= len;
            }
            // What is left must be fewer than 8 bits, all ones: the beginning of the end mark.
            None => {
                let mask = (1_u64 << have) - 1;
                return (have < 8 && bits & mask == mask).then_some(out);
            }
        }
    }
}

fn long(bits: u64, have: usize) -> Option<(u8, usize)> {
    for len in 5..=LONGEST.min(have) {
        let candidate = u32::try_from(bits >> (have - len) & ((1 << len) - 1)).ok()?;
        let Some(offset) = candidate.checked_sub(CODE.first[len]) else {
            continue;
        };
        if offset < CODE.count[len] {
            let symbol = CODE.symbols[CODE.start[len] + usize::try_from(offset).ok()?];
            return if symbol == EOS {
                None
            } else {
                u8::try_from(symbol).ok().map(|s| (s, len))
            };
        }
    }
    None
}

/// Encodes `plain` (tests and fuzzing only: the relay itself sends plain strings).
#[cfg(test)]
pub(super) fn encode(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut have) = (0_u64, 0_usize);
    for &octet in plain {
        let len = usize::from(LENGTHS[usize::from(octet)]);
        let place = CODE.symbols[CODE.start[len]..]
            .iter()
            .position(|s| *s == u16::from(octet))
            .unwrap();
        bits = bits << len | u64::from(CODE.first[len] + u32::try_from(place).unwrap());
        have += len;
        while have >= 8 {
            have -= 8;
            out.push((bits >> have).to_le_bytes()[0]);
        }
    }
    if have > 0 {
        let pad = 8 - have;
        out.push((bits << pad | ((1 << pad) - 1)).to_le_bytes()[0]);
    }
    out
}
