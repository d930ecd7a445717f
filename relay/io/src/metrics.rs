//! A metrics page in the text format that the scraper wants, of two.
//!
//! OpenMetrics 1.0.0 names a family without the suffix of its samples and ends with `# EOF`; the format of Prometheus,
//! version 0.0.4, names a family as its samples and has no units and no types `info` and `unknown`. Samples are the same
//! in both: no family here has exemplars, times of creation or timestamps.
//! Sources: OpenMetrics 1.0.0; "Exposition formats" of the Prometheus documentation.

use axum::{
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use std::fmt::Write as _;

/// The version of OpenMetrics that is written.
const VERSION: &str = "1.0.0";

/// Answers a request with these headers with a page that was rendered as OpenMetrics.
pub fn answer(headers: &HeaderMap, page: String) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter();
    let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
    let format = TextFormat::accepted(&accept.join(","));
    let fields = [
        (header::CONTENT_TYPE, format.media_type()),
        (header::VARY, "Accept"),
    ];
    (fields, format.render(page)).into_response()
}

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus 0.0.4.
    Prometheus,
}

impl TextFormat {
    /// The format for a header field `Accept` (RFC 9110, 12.5.1): OpenMetrics where the scraper names it and wants plain
    /// text no more.
    fn accepted(accept: &str) -> Self {
        let mut open_metrics = 0;
        // The range that names plain text most closely counts, and of equal ranges the heaviest.
        let mut text = (0, 0);
        for range in accept.split(',') {
            let mut parts = range.split(';');
            let media_type = parts.next().unwrap_or_default().trim();
            let (mut weight, mut version) = (1000, VERSION);
            for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                match &*name.trim().to_ascii_lowercase() {
                    "q" => weight = thousandths(value.trim()),
                    "version" => version = value.trim().trim_matches('"'),
                    _ => {}
                }
            }
            match &*media_type.to_ascii_lowercase() {
                "application/openmetrics-text" if version == VERSION => {
                    open_metrics = open_metrics.max(weight);
                }
                "text/plain" => text = text.max((3, weight)),
                "text/*" => text = text.max((2, weight)),
                "*/*" => text = text.max((1, weight)),
                _ => {}
            }
        }
        let (_closeness, text) = text;
        if open_metrics > 0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// A page, rendered as OpenMetrics, in this format.
    #[must_use]
    pub fn render(self, page: String) -> String {
        match self {
            Self::OpenMetrics => page,
            Self::Prometheus => prometheus(&page),
        }
    }

    /// Its media type.
    fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A weight such as `0.35` in thousandths; a malformed weight is 0.
fn thousandths(weight: &str) -> u16 {
    let weight = weight.parse::<f32>().unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    let thousandths = (weight.clamp(0.0, 1.0) * 1000.0).round() as u16;
    thousandths
}

/// An OpenMetrics page in the format of Prometheus.
fn prometheus(page: &str) -> String {
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
            (
                "application/openmetrics-text;q=0.5,text/plain;q=0.1,*/*;q=0.9",
                TextFormat::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                TextFormat::Prometheus,
            ),
            (
                "application/openmetrics-text;version=\"1.0.0\"",
                TextFormat::OpenMetrics,
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
