//! Texts that fit a width.

/// A text in printable ASCII, a character for each: what a runtime reports, and what is typed, may hold anything.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            ' '..='~' => char,
            _ => '?',
        })
        .collect()
}

/// A text in at most `width` characters: its beginning.
pub(super) fn beginning(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// Printable ASCII in at most `width` characters: its beginning and its end.
pub(super) fn beginning_and_end(text: &str, width: usize) -> String {
    if text.len() <= width {
        return text.to_owned();
    }
    let Some(kept) = width.checked_sub(1) else {
        return String::new();
    };
    let end = kept.div_ceil(2);
    let beginning = text.get(..kept - end).unwrap_or_default();
    let end = text.get(text.len() - end..).unwrap_or_default();
    format!("{beginning}…{end}")
}

/// As many of the parts as fit the width, whole, in a line that begins with a space.
pub(super) fn joined(parts: &[impl AsRef<str>], width: usize) -> String {
    let mut line = String::new();
    for part in parts {
        let gap = if line.is_empty() { " " } else { "   " };
        let part = part.as_ref();
        if line.chars().count() + gap.len() + part.chars().count() > width {
            break;
        }
        line += gap;
        line += part;
    }
    line
}
