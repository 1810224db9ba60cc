//! The latencies of calls, by kind and bin of their arguments' size, since the pool began: two of these compare like with
//! like.

use super::{Kind, bins};

/// The calls of one kind and bin: how many, and the sums of ln(ns) and of its square.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    pub calls: u64,
    pub sum: f64,
    pub squares: f64,
}

#[derive(Clone, Debug)]
pub struct Outcomes(Box<[Outcome]>);

impl Default for Outcomes {
    fn default() -> Self {
        Self(vec![Outcome::default(); Kind::COUNT * bins::COUNT].into())
    }
}

impl Outcomes {
    /// Adds a call. Its time is without what all calls of the moment share (the drift factor); one below 1 ns, infinite or
    /// NaN is left out.
    pub fn add(&mut self, kind: Kind, size: u64, ns: f64) {
        if !(ns.is_finite() && ns >= 1.0) {
            return;
        }
        let ln = ns.ln();
        let outcome = &mut self.0[kind as usize * bins::COUNT + bins::of(size)];
        outcome.calls += 1;
        outcome.sum += ln;
        outcome.squares += ln * ln;
    }

    /// Where a bin begins, and its calls; bins without any are left out.
    pub fn seen(&self, kind: Kind) -> impl Iterator<Item = (u64, Outcome)> {
        let row = &self.0[kind as usize * bins::COUNT..][..bins::COUNT];
        let bins = row.iter().enumerate().filter(|(_, outcome)| outcome.calls > 0);
        bins.map(|(bin, outcome)| (bins::start(bin), *outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_by_kind_and_bin() {
        let mut outcomes = Outcomes::default();
        for ns in [std::f64::consts::E, 1.0, 0.5, f64::NAN, f64::INFINITY] {
            outcomes.add(Kind::Tensor, 5_000, ns);
        }
        outcomes.add(Kind::Tensor, u64::MAX, 1.0);
        let seen: Vec<_> = outcomes.seen(Kind::Tensor).collect();
        assert_eq!(seen[0], (bins::start(bins::of(5_000)), Outcome { calls: 2, sum: 1.0, squares: 1.0 }));
        assert_eq!((seen.len(), seen[1].1.calls), (2, 1));
        assert_eq!(outcomes.seen(Kind::Binary).count(), 0);
    }
}
