//! The text format in which Prometheus reads metrics, version 0.0.4.

use kv_core::node::Durations;
use std::fmt::{Display, Write as _};

/// The content type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The labels of a sample: names and values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// A text that is being written.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

impl Exposition {
    pub(super) fn finish(self) -> String {
        self.0
    }

    /// Begins a metric whose samples follow.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if at == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A number that can rise and fall.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauges(name, help, |sample| sample(&[], &value));
    }

    /// The same for several values of labels. `each` passes every sample to the function that it gets.
    pub(super) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        each: impl FnOnce(&mut dyn FnMut(Labels<'_>, &dyn Display)),
    ) {
        self.family(name, "gauge", help);
        each(&mut |labels, value| self.sample(name, labels, value));
    }

    /// A number that only rises.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, |sample| sample(&[], &value));
    }

    /// The same for several values of labels.
    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        each: impl FnOnce(&mut dyn FnMut(Labels<'_>, &dyn Display)),
    ) {
        self.family(name, "counter", help);
        each(&mut |labels, value| self.sample(name, labels, value));
    }

    /// Durations, in seconds.
    pub(super) fn histogram(&mut self, name: &str, help: &str, durations: &Durations) {
        self.family(name, "histogram", help);
        self.durations(name, None, durations);
    }

    /// The same for several values of one label.
    pub(super) fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        each: impl IntoIterator<Item = (&'a dyn Display, &'a Durations)>,
    ) {
        self.family(name, "histogram", help);
        for (value, durations) in each {
            self.durations(name, Some((label, value)), durations);
        }
    }

    fn durations(&mut self, name: &str, label: Option<(&str, &dyn Display)>, durations: &Durations) {
        for (end, count) in durations.buckets() {
            self.bucket(name, label, &end.as_secs_f64(), count);
        }
        let count = durations.latencies().count();
        self.bucket(name, label, &"+Inf", count);
        let labels: Vec<_> = label.into_iter().collect();
        self.sample(&format!("{name}_sum"), &labels, durations.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), &labels, count);
    }

    fn bucket(&mut self, name: &str, label: Option<(&str, &dyn Display)>, end: &dyn Display, count: u64) {
        let labels: Vec<_> = label.into_iter().chain([("le", end)]).collect();
        self.sample(&format!("{name}_bucket"), &labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped() {
        let mut text = Exposition::default();
        text.gauges("a", "one\ntwo \\ three", |sample| sample(&[("b", &"x\"\\\n"), ("c", &1)], &0.25));
        text.counter("d_total", "d", 7);
        let wanted = "# HELP a one\\ntwo \\\\ three\n# TYPE a gauge\na{b=\"x\\\"\\\\\\n\",c=\"1\"} 0.25\n\
                      # HELP d_total d\n# TYPE d_total counter\nd_total 7\n";
        assert_eq!(text.finish(), wanted);
    }

    #[test]
    fn a_histogram_has_every_bucket_and_its_sum() {
        let mut text = Exposition::default();
        let (empty, peer) = (Durations::default(), 2);
        text.histograms("h_seconds", "h", "peer", [(&peer as &dyn Display, &empty)]);
        let text = text.finish();
        for line in [
            "h_seconds_bucket{peer=\"2\",le=\"0.000002\"} 0",
            "h_seconds_bucket{peer=\"2\",le=\"33.554432\"} 0",
            "h_seconds_bucket{peer=\"2\",le=\"+Inf\"} 0",
            "h_seconds_sum{peer=\"2\"} 0",
            "h_seconds_count{peer=\"2\"} 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is missing in {text}");
        }
    }
}
