//! Nanoseconds, counts and shares as text.

/// Nanoseconds as people read them.
pub(super) fn span(ns: u64) -> String {
    match ns {
        0 => "0".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        _ => format!(
            "{}.{:02}s",
            ns / 1_000_000_000,
            ns % 1_000_000_000 / 10_000_000
        ),
    }
}

/// Bytes in the largest binary unit of which there is at least one.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    match fitting {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// A number in exactly `width` characters (at least five), with the decimals that fit, so that the numbers of a column stand
/// point below point. A zero has no decimals, to tell it from what is merely small.
pub(super) fn number(value: f64, decimals: usize, width: usize) -> String {
    if value == 0.0 {
        let blank = if decimals > 0 { decimals + 1 } else { 0 };
        return format!("{:>width$}", format!("0{}", " ".repeat(blank)));
    }
    let least = 10f64.powi(-i32::try_from(decimals).unwrap_or_default());
    if value < least {
        return format!("{:>width$}", format!("<{least}"));
    }
    let mut scaled = value;
    for unit in ["", "k", "M", "G", "T", "P"] {
        let fitting = (0..=decimals)
            .rev()
            .map(|decimals| format!("{scaled:.decimals$}{unit}"))
            .find(|text| text.len() <= width);
        if let Some(text) = fitting {
            return format!("{text:>width$}");
        }
        scaled /= 1000.0;
    }
    format!("{:>width$}", ">")
}

/// A share in five characters.
pub(super) fn share(part: u64, whole: u64) -> String {
    match u128::from(part) * 100 / u128::from(whole.max(1)) {
        0 if part > 0 => "  <1%".to_owned(),
        percent => format!("{:>4}%", percent.min(100)),
    }
}

/// A bar of one character: blank, or how much `part` is of `whole`.
pub(super) fn bar(part: u64, whole: u64) -> char {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if part == 0 {
        return '·';
    }
    let level = u128::from(part) * 8 / u128::from(whole.max(1));
    let level = usize::try_from(level).unwrap_or(usize::MAX).min(7);
    BARS.get(level).copied().unwrap_or('█')
}

/// A bar of at most `width` characters: how much `part` is of `whole`. What is not zero has a mark.
pub(super) fn long_bar(part: u64, whole: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = u128::from(part) * width as u128 * 8 / u128::from(whole.max(1));
    let eighths = usize::try_from(eighths)
        .unwrap_or(usize::MAX)
        .min(width * 8);
    let eighths = eighths.max(usize::from(part > 0 && width > 0));
    "█".repeat(eighths / 8) + EIGHTHS.get(eighths % 8).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_column_stand_point_below_point() {
        let cells = [0.0, 0.04, 0.1, 12.34, 12_345.6, 123_456.7, 1e9, 1e30]
            .map(|value| number(value, 1, 7));
        let expected = [
            "    0  ", "   <0.1", "    0.1", "   12.3", "12345.6", " 123457", "1000000k", "      >",
        ];
        assert_eq!(cells[..6], expected[..6]);
        assert!(cells.iter().all(|cell| cell.len() == 7), "{cells:?}");
        assert_eq!(number(0.0, 0, 5), "    0");
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(long_bar(1, 2, 4), "██");
        assert_eq!(long_bar(3, 16, 4), "▊");
        assert_eq!(long_bar(1, 1_000_000, 4), "▏");
        assert_eq!(long_bar(0, 0, 4), "");
    }
}
