//! One table, of absolute figures and of ratios to the direct way and to the byte copier.

use crate::{load::Sample, way::Way};

/// Prints what `samples` (one of each way) say on one method at one concurrency.
pub(crate) fn print(method: &str, at_once: usize, ways: &[Way], samples: &mut [Sample]) {
    let method = method.rsplit('/').next().unwrap_or(method);
    println!("\n{method}, {at_once} at a time");
    println!(
        "| way | p50 µs | p99 µs | calls/s | p50 added | of socat's | p99 added | of direct calls/s |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let figures: Vec<_> = samples
        .iter_mut()
        .map(|sample| (sample.percentile(50), sample.percentile(99), sample.rate()))
        .collect();
    let (Some(&direct), Some(&socat)) = (figures.first(), figures.get(1)) else {
        return;
    };
    for (way, (p50, p99, rate)) in ways.iter().zip(&figures) {
        let added = p50 - direct.0;
        // Too small a divisor says nothing.
        let copied = socat.0 - direct.0;
        let ratio = if copied > 1.0 {
            format!("{:.2}", added / copied)
        } else {
            "–".into()
        };
        println!(
            "| {} | {p50:.0} | {p99:.0} | {rate:.0} | {added:.0} | {ratio} | {:.0} | {:.2} |",
            way.name,
            p99 - direct.1,
            rate / direct.2,
        );
    }
}
