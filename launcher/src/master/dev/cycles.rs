//! From saves to what became of them: good builds of one service whose plugin is on its way, oldest first.
//!
//! Pure. Several may be on their way: a swap may take longer than the next build. A deployment is known by its trigger,
//! which is no more than the files that changed, so two of them may look alike; what is told of such comes in their
//! order. Nothing but the end of a deployment ends a cycle: a build that begins meanwhile does not call it off.

/// A good build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cycle {
    /// The trigger of its deployment.
    pub(super) trigger: String,
    /// Files, as they are told.
    pub(super) changed: Vec<String>,
    /// How long the build took, milliseconds.
    pub(super) build_ms: u64,
}

/// Those of one service.
#[derive(Debug, Default)]
pub(super) struct Cycles(Vec<Cycle>);

impl Cycles {
    /// A build was good.
    pub(super) fn built(&mut self, cycle: Cycle) {
        self.0.push(cycle);
    }

    /// What it led to serves. Those that were before it have been overtaken.
    pub(super) fn promoted(&mut self, trigger: &str) -> Option<Cycle> {
        let at = self.0.iter().position(|cycle| cycle.trigger == trigger)?;
        self.0.drain(..=at).next_back()
    }

    /// It has led to the plugin that serves already, or that one before it brings.
    pub(super) fn unchanged(&mut self, trigger: &str) -> Option<Cycle> {
        let at = self.0.iter().rposition(|cycle| cycle.trigger == trigger)?;
        Some(self.0.remove(at))
    }

    /// A deployment gave way to a newer one: the oldest, because they are begun in their order. The newest never does; where
    /// it is alone, what gave way was no build's.
    pub(super) fn superseded(&mut self) {
        if self.0.len() > 1 {
            self.0.remove(0);
        }
    }

    /// What is on its way cannot be served.
    pub(super) fn failed(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(trigger: &str, build_ms: u64) -> Cycle {
        Cycle { trigger: trigger.to_owned(), changed: vec![trigger.to_owned()], build_ms }
    }

    fn built(all: &[(&str, u64)]) -> Cycles {
        let mut cycles = Cycles::default();
        all.iter().for_each(|(trigger, build_ms)| cycles.built(cycle(trigger, *build_ms)));
        cycles
    }

    #[test]
    fn a_build_that_is_good_before_the_swap_of_the_one_before_takes_nothing_from_it() {
        let mut cycles = built(&[("a", 1), ("b", 2)]);
        assert_eq!(cycles.promoted("a"), Some(cycle("a", 1)));
        assert_eq!(cycles.promoted("b"), Some(cycle("b", 2)));
        let mut alike = built(&[("a", 1), ("a", 2)]);
        assert_eq!(alike.promoted("a"), Some(cycle("a", 1)));
        assert_eq!(alike.promoted("a"), Some(cycle("a", 2)));
    }

    #[test]
    fn the_same_plugin_again_leaves_the_one_that_is_on_its_way() {
        for second in ["a", "b"] {
            let mut cycles = built(&[("a", 1), (second, 2)]);
            assert_eq!(cycles.unchanged(second), Some(cycle(second, 2)));
            assert_eq!(cycles.promoted("a"), Some(cycle("a", 1)));
        }
    }

    #[test]
    fn who_was_overtaken_is_told_no_more() {
        let mut cycles = built(&[("a", 1), ("b", 2)]);
        assert_eq!(cycles.promoted("b"), Some(cycle("b", 2)));
        assert_eq!(cycles.promoted("a"), None);
        let mut alike = built(&[("a", 1), ("a", 2)]);
        alike.superseded();
        alike.superseded();
        assert_eq!(alike.promoted("a"), Some(cycle("a", 2)));
    }

    #[test]
    fn what_cannot_be_served_and_what_others_caused_end_nothing_later() {
        let mut cycles = built(&[("a", 1)]);
        assert_eq!(cycles.promoted("SIGHUP"), None);
        cycles.failed();
        assert_eq!(cycles.promoted("a"), None);
    }
}
