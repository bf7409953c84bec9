//! Draws latencies over time as SVG.

use std::fmt::Write as _;
use std::time::Duration;

/// The size of the picture, and where the axes begin and end.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 880.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 350.0;
/// The range of the vertical axis, which is logarithmic, in milliseconds.
const LEAST_MS: f64 = 0.1;
const MOST_MS: f64 = 10_000.0;

/// Draws points: the time of each in seconds, and a latency. A line marks the time 0, and `title` is above.
pub(super) fn scatter(
    title: &str,
    span: (f64, f64),
    points: impl Iterator<Item = (f64, Duration)>,
) -> String {
    let x = |seconds: f64| LEFT + (RIGHT - LEFT) * (seconds - span.0) / (span.1 - span.0);
    let y = |ms: f64| {
        let share = (ms.clamp(LEAST_MS, MOST_MS) / LEAST_MS).log10() / (MOST_MS / LEAST_MS).log10();
        BOTTOM - (BOTTOM - TOP) * share
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{title}</text>\n"
    );
    // Writing to a string cannot fail.
    for power in -1..=4 {
        let ms = 10_f64.powi(power);
        let at = y(ms);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
        );
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for tenth in ticks(span) {
        let at = x(tenth);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{BOTTOM}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#888\"/>",
            BOTTOM + 5.0
        );
        let _ = writeln!(
            out,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tenth:.1} s</text>",
            BOTTOM + 20.0
        );
    }
    let _ = writeln!(
        out,
        "<line x1=\"{0:.1}\" y1=\"{TOP}\" x2=\"{0:.1}\" y2=\"{BOTTOM}\" stroke=\"#c00\" stroke-width=\"2\"/>",
        x(0.0)
    );
    for (seconds, latency) in points.filter(|(seconds, _)| (span.0..=span.1).contains(seconds)) {
        let (x, y) = (x(seconds), y(latency.as_secs_f64() * 1e3));
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.5\" fill=\"#06c\" fill-opacity=\"0.5\"/>"
        );
    }
    out + "</svg>\n"
}

/// Every fifth of a second within the span.
fn ticks((from, to): (f64, f64)) -> impl Iterator<Item = f64> {
    (-50..=50).map(|tick| f64::from(tick) * 0.2).filter(move |at| (from - 1e-9..=to + 1e-9).contains(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_drawn_within_the_axes() {
        let points = [(-0.5, 1), (0.5, 100), (0.9, 1_000_000), (3.0, 1)];
        let points = points.into_iter().map(|(at, ms)| (at, Duration::from_millis(ms)));
        let picture = scatter("a kill", (-1.0, 1.0), points);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert_eq!(picture.matches("<circle").count(), 3, "one is beyond the span");
        assert!(
            picture.contains("cx=\"280.0\" cy=\"290.0\"") && picture.contains("cy=\"50.0\""),
            "{picture}"
        );
    }
}
