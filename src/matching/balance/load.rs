//! Picking by load: the fewest requests in flight, the quickest of two.

use std::time::Duration;

/// How fast a moving average forgets: after this time without an answer it is down to a 1/e.
/// (APISIX, `ewma`)
const DECAY: Duration = Duration::from_secs(10);

/// A moving average of response times.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Latency {
    /// In seconds, as of the last answer.
    pub seconds: f32,
}

impl Latency {
    /// What it is `age` after the last answer: nodes that nobody asks get better again.
    #[must_use]
    pub fn after(self, age: Duration) -> Self {
        Self {
            seconds: self.seconds * remains(age),
        }
    }

    /// With one more answer, which took `took`.
    #[must_use]
    pub fn with(self, took: Duration, age: Duration) -> Self {
        let remains = remains(age);
        Self {
            seconds: self.seconds * remains + took.as_secs_f32() * (1.0 - remains),
        }
    }
}

fn remains(age: Duration) -> f32 {
    (-age.as_secs_f32() / DECAY.as_secs_f32()).exp()
}

/// The nodes with the fewest requests in flight for their weight, the one to come counted:
/// `(in flight + 1) / weight`. Weight 0 means "no traffic", unless the node is the only one.
pub fn least_busy(
    weights: &[u32],
    in_flight: impl Fn(usize) -> u32,
    usable: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let mut least: Vec<usize> = Vec::new();
    let mut best = (0_u64, 1_u64);
    for (node, weight) in weights.iter().enumerate() {
        let weight = match weights {
            [_only] => 1,
            _ => u64::from(*weight),
        };
        if weight == 0 || !usable(node) {
            continue;
        }
        let busy = u64::from(in_flight(node)) + 1;
        // Fractions are compared crosswise: both products fit, of 33 and 32 bits.
        let (own, others) = (
            u128::from(busy) * u128::from(best.1),
            u128::from(best.0) * u128::from(weight),
        );
        if least.is_empty() || own < others {
            least.clear();
            best = (busy, weight);
            least.push(node);
        } else if own == others {
            least.push(node);
        }
    }
    least
}

/// The quicker of two nodes that `random` draws from those that are usable. Weight 0 means "no
/// traffic", unless the node is the only one; other weights do not matter. (APISIX, `ewma`)
pub fn quicker(
    weights: &[u32],
    latency: impl Fn(usize) -> Latency,
    usable: impl Fn(usize) -> bool,
    random: u64,
) -> Option<usize> {
    let is_only = weights.len() == 1;
    let nodes = weights.iter().enumerate();
    let drawn: Vec<usize> = nodes
        .filter(|(node, weight)| (is_only || **weight > 0) && usable(*node))
        .map(|(node, _)| node)
        .collect();
    let count = u64::try_from(drawn.len()).ok().filter(|count| *count > 0)?;
    let draw = |random: u64, of: u64| usize::try_from(random % of.max(1)).unwrap_or_default();
    let first = draw(random, count);
    // One of the others.
    let second = (first + 1 + draw(random >> 32, count - 1)) % drawn.len().max(1);
    let (first, second) = (*drawn.get(first)?, *drawn.get(second)?);
    if latency(second).seconds < latency(first).seconds {
        Some(second)
    } else {
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_busy_for_its_weight_is_found() {
        for (weights, in_flight, least) in [
            (&[1, 1, 1][..], &[2, 0, 1][..], &[1][..]),
            (&[1, 1, 1], &[1, 1, 1], &[0, 1, 2]),
            (&[4, 1], &[3, 0], &[0, 1]),
            (&[4, 1], &[2, 0], &[0]),
            (&[0, 1], &[0, 9], &[1]),
            (&[0], &[9], &[0]),
            (&[0, 0], &[0, 0], &[]),
            (&[u32::MAX, u32::MAX], &[u32::MAX, 0], &[1]),
        ] {
            let found = least_busy(weights, |node| in_flight[node], |_| true);
            assert_eq!(found, least, "{weights:?} {in_flight:?}");
        }
        assert_eq!(least_busy(&[1, 1], |_| 0, |node| node == 1), [1]);
        assert!(least_busy(&[1, 1], |_| 0, |_| false).is_empty());
    }

    #[test]
    fn the_quicker_of_two_is_picked_and_the_slowest_never() {
        let seconds = [0.3, 0.1, 0.2];
        let latency = |node: usize| Latency {
            seconds: seconds[node],
        };
        let mut seen = [0; 3];
        for high in 0..30_u64 {
            for low in 0..30_u64 {
                let random = high << 32 | low;
                seen[quicker(&[1, 1, 1], latency, |_| true, random).unwrap()] += 1;
            }
        }
        assert_eq!(seen[0], 0, "{seen:?}");
        assert!(seen[1] > seen[2] && seen[2] > 0, "{seen:?}");
        assert_eq!(quicker(&[1, 1, 1], latency, |node| node == 0, 7), Some(0));
        assert_eq!(quicker(&[0, 0, 1], latency, |_| true, 7), Some(2));
        assert_eq!(quicker(&[0], latency, |_| true, 7), Some(0));
        assert_eq!(quicker(&[0, 0], latency, |_| true, 7), None);
        assert_eq!(quicker(&[1, 1], latency, |_| false, 7), None);
    }

    #[test]
    fn an_average_moves_with_answers_and_decays_without() {
        let none = Latency::default();
        let one = none.with(Duration::from_secs(1), DECAY);
        assert!((one.seconds - 0.632).abs() < 0.001, "{one:?}");
        let faded = one.after(DECAY);
        assert!((faded.seconds - 0.2325).abs() < 0.001, "{faded:?}");
        let slower = one.with(Duration::from_secs(2), Duration::from_secs(1));
        assert!(slower.seconds > one.seconds, "{slower:?}");
        assert_eq!(one.after(Duration::ZERO), one);
        assert!(one.after(Duration::MAX).seconds.abs() < f32::EPSILON);
    }
}
