//! Smooth weighted round robin.

/// nginx's smooth weighted round robin over the nodes of one priority.
///
/// With weights 5, 1, 1 the order is a a b a c a a, not five times a in a row. The state is the
/// picker's own: whoever shares it between threads brings the lock.
#[derive(Debug, Clone)]
pub struct WeightedRoundRobin {
    nodes: Vec<Turn>,
}

#[derive(Debug, Clone)]
struct Turn {
    weight: i64,
    /// How far this node is due. Invariant: all sum up to zero between picks.
    due: i64,
}

impl WeightedRoundRobin {
    /// A picker over nodes `0..weights.len()`. A single node counts whatever its weight.
    pub fn new(weights: &[u32]) -> Self {
        let turn = |weight: &u32| Turn {
            weight: i64::from(*weight),
            due: 0,
        };
        let mut nodes: Vec<_> = weights.iter().map(turn).collect();
        if let [only] = nodes.as_mut_slice() {
            only.weight = 1;
        }
        Self { nodes }
    }

    /// The next node among those that are `usable`, by index.
    ///
    /// `None` when no node with a weight is usable. Weight 0 means "no traffic", so such a node is
    /// not used as a last resort either, unless it is the only one there is (APISIX's
    /// `roundrobin`). Nodes left out keep their place and get no burst when they return.
    pub fn pick(&mut self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, &mut Turn)> = None;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if node.weight == 0 || !usable(index) {
                continue;
            }
            total += node.weight;
            node.due += node.weight;
            if best.as_ref().is_none_or(|(_, best)| node.due > best.due) {
                best = Some((index, node));
            }
        }
        let (index, node) = best?;
        node.due -= total;
        Some(index)
    }

    /// How many nodes there are, usable or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True when there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picks(picker: &mut WeightedRoundRobin, count: usize) -> Vec<usize> {
        (0..count).filter_map(|_| picker.pick(|_| true)).collect()
    }

    #[test]
    fn picks_are_interleaved_as_nginx_interleaves_them() {
        let mut picker = WeightedRoundRobin::new(&[5, 1, 1]);
        let order = [0, 0, 1, 0, 2, 0, 0];
        assert_eq!(picks(&mut picker, 14), [order, order].concat());
    }

    #[test]
    fn equal_weights_take_turns() {
        let mut picker = WeightedRoundRobin::new(&[7, 7, 7]);
        assert_eq!(picks(&mut picker, 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_single_node_is_used_whatever_its_weight() {
        let mut picker = WeightedRoundRobin::new(&[0]);
        assert_eq!(picks(&mut picker, 2), [0, 0]);
        assert_eq!(picker.pick(|_| false), None);
    }

    #[test]
    fn weight_zero_gets_nothing_beside_other_nodes() {
        let mut picker = WeightedRoundRobin::new(&[0, 1, 0]);
        assert_eq!(picks(&mut picker, 3), [1, 1, 1]);
        assert_eq!(picker.pick(|index| index != 1), None);
        assert_eq!(WeightedRoundRobin::new(&[0, 0]).pick(|_| true), None);
        assert_eq!(WeightedRoundRobin::new(&[]).pick(|_| true), None);
    }

    #[test]
    fn an_unusable_node_is_passed_over_and_gets_no_burst_later() {
        let mut picker = WeightedRoundRobin::new(&[1, 1]);
        for _ in 0..10 {
            assert_eq!(picker.pick(|index| index == 1), Some(1));
        }
        assert_eq!(picks(&mut picker, 4), [0, 1, 0, 1]);
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let mut picker = WeightedRoundRobin::new(&[u32::MAX; 100]);
        assert_eq!(picks(&mut picker, 1000).len(), 1000);
    }

    proptest! {
        #[test]
        fn one_round_gives_each_node_its_weight_and_keeps_pace(
            weights in proptest::collection::vec(0_u32..12, 2..8)
        ) {
            let total: u32 = weights.iter().sum();
            let mut picker = WeightedRoundRobin::new(&weights);
            let mut counts = vec![0_u32; weights.len()];
            for turn in 1..=total {
                counts[picker.pick(|_| true).unwrap()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = f64::from(turn) * f64::from(*weight) / f64::from(total);
                    prop_assert!((f64::from(*count) - due).abs() < 2.0);
                }
            }
            prop_assert_eq!(counts, weights);
        }
    }
}
