//! The two text formats of a metrics page, and which of them a scraper wants.
//!
//! OpenMetrics 1.0 names a family without the suffix of its samples and ends with `# EOF`; the format of Prometheus,
//! version 0.0.4, names what stands in the samples and has no units, info or unknown types. Samples are the same in both.
//! Sources: OpenMetrics 1.0.0; "Exposition formats" of the Prometheus documentation.

use std::fmt::Write as _;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextFormat {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus 0.0.4.
    Prometheus,
}

impl TextFormat {
    /// What a scraper accepts best (RFC 9110, 12.5.1); OpenMetrics only when it is named, and not less wanted than text.
    pub(super) fn accepted(accept: &str) -> Self {
        let (mut open_metrics, mut text) = (0, 0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weights = parts.filter_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                let is_weight = name.trim().eq_ignore_ascii_case("q");
                is_weight.then(|| weight(value.trim()))
            });
            let weight = weights.next_back().unwrap_or(1000);
            match &*media_type {
                "application/openmetrics-text" => open_metrics = weight.max(open_metrics),
                "text/plain" | "text/*" | "*/*" => text = weight.max(text),
                _ => {}
            }
        }
        match open_metrics > 0 && open_metrics >= text {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Its media type.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A weight such as `0.35` in thousandths; a malformed one wants nothing.
fn weight(text: &str) -> u16 {
    let known = text.parse::<f32>().ok();
    let known = known.filter(|weight| (0.0..=1.0).contains(weight));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    known.map_or(0, |weight| (weight * 1000.0).round() as u16)
}

/// An OpenMetrics page in the format of Prometheus.
pub(super) fn prometheus(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    // The type is known a line after the help text.
    let mut help = "";
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        let head = (words.next(), words.next());
        let family = words.next().unwrap_or_default();
        let rest = words.next().unwrap_or_default();
        match head {
            (Some("#"), Some("HELP")) => help = rest,
            (Some("#"), Some("TYPE")) => {
                let (suffix, kind) = match rest {
                    "counter" => ("_total", rest),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                // Writing to a String cannot fail.
                let _written = writeln!(
                    text,
                    "# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} {kind}"
                );
            }
            (Some("#"), Some("UNIT" | "EOF")) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_scraper_wants_most() {
        for (accept, format) in [
            ("", TextFormat::Prometheus),
            ("*/*", TextFormat::Prometheus),
            ("text/html,*/*;q=0.8", TextFormat::Prometheus),
            ("application/openmetrics-text", TextFormat::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;\
                 version=0.0.1;q=0.4,text/plain;version=0.0.4;escaping=allow-utf-8;q=0.3,*/*;q=0.2",
                TextFormat::OpenMetrics,
            ),
            (
                "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.2,*/*;q=0.1",
                TextFormat::Prometheus,
            ),
            (
                "application/openmetrics-text;q=0, */*",
                TextFormat::Prometheus,
            ),
            ("application/openmetrics-text; q=x", TextFormat::Prometheus),
            (
                "Application/OpenMetrics-Text; Q=0.7",
                TextFormat::OpenMetrics,
            ),
        ] {
            assert_eq!(TextFormat::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn families_are_named_as_their_samples() {
        let page = "# HELP build Version.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n\
                    # HELP calls Calls.\n# TYPE calls counter\ncalls_total{code=\"0\"} 3\n\
                    # HELP size_bytes Size.\n# TYPE size_bytes gauge\n# UNIT size_bytes bytes\nsize_bytes 1\n\
                    # HELP time T.\n# TYPE time histogram\ntime_sum 0.1\ntime_count 1\ntime_bucket{le=\"+Inf\"} 1\n\
                    # HELP odd O.\n# TYPE odd unknown\nodd 1\n# EOF\n";
        let text = "# HELP build_info Version.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
                    # HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total{code=\"0\"} 3\n\
                    # HELP size_bytes Size.\n# TYPE size_bytes gauge\nsize_bytes 1\n\
                    # HELP time T.\n# TYPE time histogram\ntime_sum 0.1\ntime_count 1\ntime_bucket{le=\"+Inf\"} 1\n\
                    # HELP odd O.\n# TYPE odd untyped\nodd 1\n";
        assert_eq!(prometheus(page), text);
    }
}
