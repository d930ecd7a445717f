//! Kubernetes quantities, exactly.
//!
//! Grammar: `k8s.io/apimachinery/pkg/api/resource/quantity.go`. `number` is digits with an optional
//! fraction; the suffix is `n`, `u`, `m`, none, `k`, `M`, `G`, `T`, `P`, `E`, `Ki` … `Ei`, or a decimal
//! exponent (`e3`, `E-3`).

use resmgr_topology::MilliCpu;

const EXPECTED: &str = "expected a Kubernetes quantity such as 2, 1500m or 1.5";

/// A non-negative number of CPUs; parts of a thousandth are rounded up, as Kubernetes does.
///
/// # Errors
/// What is wrong with the text.
pub fn milli_cpus(text: &str) -> Result<MilliCpu, String> {
    let milli = scaled(text, 3)?;
    u32::try_from(milli)
        .map(MilliCpu)
        .map_err(|_too_large| "more CPUs than any machine has".to_owned())
}

/// A non-negative number of bytes, rounded up to whole ones.
///
/// # Errors
/// What is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, String> {
    u64::try_from(scaled(text, 0)?).map_err(|_too_large| "too large".to_owned())
}

/// `text × 10^scale`, rounded up.
fn scaled(text: &str, scale: i32) -> Result<u128, String> {
    let text = text.trim();
    let bad = || EXPECTED.to_owned();
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(bad());
    }
    let mut digits: u128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits
            .checked_mul(10)
            .and_then(|value| value.checked_add(u128::from(digit - b'0')))
            .ok_or_else(|| "too many digits".to_owned())?;
    }
    let (binary, decimal) = suffix_of(suffix).ok_or_else(bad)?;
    if negative && digits != 0 {
        return Err("must not be negative".to_owned());
    }
    let overflow = || "too large".to_owned();
    let digits = digits.checked_mul(binary).ok_or_else(overflow)?;
    let places = i32::try_from(fraction.len()).map_err(|_long| overflow())?;
    let exponent = decimal + scale - places;
    if digits == 0 {
        return Ok(0);
    }
    let power = 10u128.checked_pow(exponent.unsigned_abs());
    if exponent >= 0 {
        power
            .and_then(|power| digits.checked_mul(power))
            .ok_or_else(overflow)
    } else {
        Ok(power.map_or(1, |power| digits.div_ceil(power)))
    }
}

/// A suffix as (factor, power of ten).
fn suffix_of(suffix: &str) -> Option<(u128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|b| b.is_ascii_digit())
            {
                return None;
            }
            (1, exponent.parse().ok()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("2", 2000),
            ("1500m", 1500),
            ("1.5", 1500),
            ("0.1", 100),
            (".5", 500),
            ("2.", 2000),
            ("1k", 1_000_000),
            ("1e1", 10_000),
            ("1500e-3", 1500),
            ("100u", 1),
            ("1000100u", 1001),
            ("0.0001", 1),
            ("+3", 3000),
            ("0", 0),
            ("-0", 0),
            ("1Ki", 1_024_000),
        ] {
            assert_eq!(milli_cpus(text), Ok(MilliCpu(milli)), "{text}");
        }
        assert_eq!(bytes("1.5Gi"), Ok(1_610_612_736));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "", "-", ".", "m", "1 5", "1x", "1e", "1e999", "1.2.3", "0x1", "1mm",
        ] {
            assert_eq!(milli_cpus(text), Err(EXPECTED.to_owned()), "{text:?}");
        }
        assert_eq!(milli_cpus("-1"), Err("must not be negative".to_owned()));
        assert!(milli_cpus("1E").is_err());
        assert!(milli_cpus(&"9".repeat(80)).is_err());
    }
}
