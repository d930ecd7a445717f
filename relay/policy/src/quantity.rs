//! Kubernetes quantities: `250m`, `2`, `1.5Gi`, `1e3`.
//!
//! Format: `k8s.io/apimachinery/pkg/api/resource`, quantity grammar.

use alloc::string::{String, ToString};
use core::str::FromStr;

/// A quantity, exact to a billionth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity (expected a number such as 2, 250m, 1.5Gi or 1e3)")]
pub struct QuantityError {
    /// As typed.
    pub text: String,
}

impl Quantity {
    /// In whole units, rounded up.
    #[must_use]
    pub fn units(self) -> i128 {
        self.ceil(1_000_000_000)
    }

    /// In thousandths, rounded up.
    #[must_use]
    pub fn millis(self) -> i128 {
        self.ceil(1_000_000)
    }

    fn ceil(self, unit: i128) -> i128 {
        self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || QuantityError {
            text: text.to_string(),
        };
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(bad());
        }
        let (factor, divisor) = scale(suffix).ok_or_else(bad)?;
        let mut mantissa: i128 = 0;
        let mut unit: i128 = 1;
        // Beyond nine decimals nothing is left but whether to round up.
        let mut more = false;
        for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
            let decimals = (index + 1).saturating_sub(whole.len());
            if decimals > 12 {
                more |= digit != b'0';
                continue;
            }
            let grown = mantissa.checked_mul(10).ok_or_else(bad)?;
            mantissa = grown + i128::from(digit - b'0');
            unit *= if decimals > 0 { 10 } else { 1 };
        }
        let scaled = mantissa
            .checked_mul(factor)
            .and_then(|n| n.checked_mul(1_000_000_000));
        let scaled = scaled.ok_or_else(bad)?;
        let divisor = unit.checked_mul(divisor).ok_or_else(bad)?;
        let nanos = scaled / divisor + i128::from(more || scaled % divisor != 0);
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
        })
    }
}

/// Factor and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok().filter(|n: &i32| n.abs() <= 18)?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, millis) in [
            ("2", 2000),
            ("250m", 250),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("1e3", 1_000_000),
            ("2E-1", 200),
            ("100M", 100_000_000_000),
            ("1.5Ki", 1_536_000),
            ("1u", 1),
            ("-1500m", -1500),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().millis(), millis, "{text}");
        }
        assert_eq!("1500m".parse::<Quantity>().unwrap().units(), 2);
        assert_eq!("8Ei".parse::<Quantity>().unwrap().units(), 8 << 60);
    }

    #[test]
    fn anything_else_is_refused_with_its_text() {
        for text in [
            "",
            "m",
            "1.2.3",
            "1 Gi",
            "1KiB",
            "0x10",
            "--1",
            "e3",
            "1e99",
            "9".repeat(99).as_str(),
        ] {
            assert_eq!(
                text.parse::<Quantity>(),
                Err(QuantityError { text: text.into() })
            );
        }
    }
}
