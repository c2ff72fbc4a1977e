//! Figures with their spread, and tables of them. Nothing is measured here.

/// The middle of some samples and what lies around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// A quarter of the samples is below.
    pub(crate) low: f64,
    pub(crate) median: f64,
    /// A quarter is above.
    pub(crate) high: f64,
}

impl Spread {
    /// `None`: there are no samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Spread> {
        Some(Spread { low: at(samples, 0.25)?, median: at(samples, 0.5)?, high: at(samples, 0.75)? })
    }
}

/// The value below which this part of the samples lies, between two of them if need be.
pub(crate) fn at(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// What a figure should be at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    pub(crate) must: f64,
    /// What it is meant to become; the same where nothing more is.
    pub(crate) goal: f64,
}

/// A figure beside that of another line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Against {
    pub(crate) baseline: &'static str,
    /// Of the same rounds.
    pub(crate) ratios: Vec<f64>,
    pub(crate) target: Option<Target>,
}

/// What was measured of one server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) subject: String,
    /// One for each round.
    pub(crate) samples: Vec<f64>,
    pub(crate) against: Vec<Against>,
    /// Of the figure itself.
    pub(crate) target: Option<Target>,
    /// What else is known, in the order of [`Table::more`].
    pub(crate) more: Vec<String>,
}

impl Line {
    pub(crate) fn new(subject: impl Into<String>, samples: Vec<f64>) -> Line {
        Line { subject: subject.into(), samples, against: Vec::new(), target: None, more: Vec::new() }
    }

    pub(crate) fn target(mut self, must: f64, goal: f64) -> Line {
        self.target = Some(Target { must, goal });
        self
    }

    /// Compares with a line of the same rounds.
    pub(crate) fn compare(&mut self, baseline: &'static str, its: &[f64], target: Option<Target>) {
        let ratios = self.samples.iter().zip(its).map(|(own, its)| own / its).collect();
        self.against.push(Against { baseline, ratios, target });
    }
}

/// What a scenario found out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) scenario: &'static str,
    pub(crate) title: String,
    /// Of the figures.
    pub(crate) unit: &'static str,
    pub(crate) lines: Vec<Line>,
    /// Heads of the further columns.
    pub(crate) more: Vec<&'static str>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<(String, String)>,
}

impl Table {
    pub(crate) fn new(scenario: &'static str, title: impl Into<String>, unit: &'static str) -> Table {
        Table { scenario, title: title.into(), unit, lines: Vec::new(), more: Vec::new(), missing: Vec::new() }
    }

    pub(crate) fn missing(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.missing.push((what.into(), why.into()));
    }
}

/// Whether a figure is where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Goal,
    Good,
    Missed,
}

impl Target {
    pub(crate) fn verdict(self, figure: f64) -> Verdict {
        if figure <= self.goal {
            Verdict::Goal
        } else if figure <= self.must {
            Verdict::Good
        } else {
            Verdict::Missed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_the_quartiles() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
        assert_eq!(Spread::of(&[5.0, 1.0, 3.0, 2.0, 4.0]), Some(Spread { low: 2.0, median: 3.0, high: 4.0 }));
        assert_eq!(at(&[1.0, 2.0], 0.5), Some(1.5));
    }

    #[test]
    fn a_ratio_is_of_one_round() {
        // The second round was slow for both.
        let mut line = Line::new("other", vec![12.0, 22.0, 13.0]);
        line.compare("base", &[10.0, 20.0, 10.0], Some(Target { must: 1.25, goal: 1.1 }));
        let spread = Spread::of(&line.against[0].ratios).expect("three rounds");
        assert!((spread.median - 1.2).abs() < 1e-9, "{spread:?}");
        let target = line.against[0].target.expect("given");
        assert_eq!(target.verdict(spread.median), Verdict::Good);
        assert_eq!((target.verdict(1.0), target.verdict(1.3)), (Verdict::Goal, Verdict::Missed));
    }
}
