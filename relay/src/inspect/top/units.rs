//! Nanoseconds and shares as text.

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
