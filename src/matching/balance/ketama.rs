//! Consistent hashing as nginx (`hash … consistent`) and lua-resty-chash have it: the same key
//! meets the same node there and here.

/// Points on the ring per unit of weight.
const POINTS_PER_WEIGHT: u64 = 160;
/// The most points that weights may ask for; beyond, they are scaled down together.
const POINTS_MAX: u64 = 1 << 17;

/// A ring of points, each a node's.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Sorted by hash. A node has as many as its weight, divided by what all weights share.
    points: Vec<Point>,
    nodes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u32,
    node: usize,
}

/// A node as the ring knows it.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// As configured; IPv6 in brackets.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// Its share; 0: none, unless it is the only member.
    pub weight: u32,
}

impl Ring {
    /// The ring of these members, which are called by their index.
    ///
    /// Weights are divided by their greatest common divisor (APISIX, `chash`). Where they still ask
    /// for more than 131,072 points, they are scaled down together and each keeps one at least.
    #[must_use]
    pub fn new(members: &[Member<'_>]) -> Self {
        let weight = |member: &Member<'_>| match members {
            [_only] => 1,
            _ => u64::from(member.weight),
        };
        let divisor = members
            .iter()
            .fold(0, |divisor, member| gcd(divisor, weight(member)))
            .max(1);
        let total: u64 = members.iter().map(|member| weight(member) / divisor).sum();
        let most = (POINTS_MAX / POINTS_PER_WEIGHT).max(1);
        let scaled = |weight: u64| match weight / divisor {
            0 => 0,
            weight if total <= most => weight,
            weight => (weight.saturating_mul(most) / total).max(1),
        };
        let mut points = Vec::new();
        for (node, member) in members.iter().enumerate() {
            let name = [
                member.host.as_bytes(),
                &[0],
                member.port.to_string().as_bytes(),
            ]
            .concat();
            let base = update(u32::MAX, &name);
            let mut hash = 0_u32;
            for _ in 0..scaled(weight(member)) * POINTS_PER_WEIGHT {
                hash = !update(base, &hash.to_le_bytes());
                points.push(Point { hash, node });
            }
        }
        points.sort_unstable();
        Self {
            points,
            nodes: members.len(),
        }
    }

    /// The node for a key's CRC-32 among those that are `usable`: the owner of the first point at
    /// or after it, and of the points behind while that one is not usable.
    pub fn find(&self, hash: u32, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.points.partition_point(|point| point.hash < hash);
        let (before, behind) = self.points.split_at_checked(start)?;
        let mut unusable = vec![];
        for point in behind.iter().chain(before) {
            if unusable.contains(&point.node) {
                continue;
            }
            if usable(point.node) {
                return Some(point.node);
            }
            unusable.push(point.node);
            if unusable.len() == self.nodes {
                break;
            }
        }
        None
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// CRC-32 (ISO-HDLC), the one of Ethernet and gzip. For spreading, not for security.
#[must_use]
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !update(u32::MAX, bytes)
}

fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE.get(usize::from(low ^ byte)).copied();
        entry.unwrap_or_default() ^ crc >> 8
    })
}

const TABLE: [u32; 256] = table();

#[expect(
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "worked out by the compiler; every index and number is below 256"
)]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut entry = index as u32;
        let mut bit = 0;
        while bit < 8 {
            entry = if entry & 1 == 1 {
                0xedb8_8320 ^ entry >> 1
            } else {
                entry >> 1
            };
            bit += 1;
        }
        table[index] = entry;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(weights: &[u32]) -> Ring {
        let members = weights.iter().zip(8000..).map(|(weight, port)| Member {
            host: "10.0.0.1",
            port,
            weight: *weight,
        });
        Ring::new(&members.collect::<Vec<_>>())
    }

    fn shares(ring: &Ring, count: usize, usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut shares = vec![0; count];
        for key in 0..10_000 {
            shares[ring
                .find(crc32(format!("key-{key}").as_bytes()), &usable)
                .unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_node_has_160_points_per_weight_after_division() {
        for (weights, points) in [
            (&[1, 1][..], 320),
            (&[100, 50], 480),
            (&[0, 3], 160),
            (&[0, 0], 0),
            (&[0], 160),
            (&[], 0),
        ] {
            assert_eq!(ring(weights).points.len(), points, "{weights:?}");
        }
    }

    #[test]
    fn weights_beyond_all_measure_are_scaled_down_together() {
        let ring = ring(&[u32::MAX, 1, u32::MAX - 1]);
        assert!(ring.points.len() <= 140_000, "{}", ring.points.len());
        let owned = |node| ring.points.iter().filter(|it| it.node == node).count();
        assert_eq!(owned(1), 160);
        assert!(owned(0).abs_diff(owned(2)) <= 160);
    }

    #[test]
    fn shares_follow_weights() {
        let shares = shares(&ring(&[1, 2, 1]), 3, |_| true);
        for (share, wanted) in shares.iter().zip([2_500_usize, 5_000, 2_500]) {
            assert!(share.abs_diff(wanted) < 700, "{shares:?}");
        }
    }

    #[test]
    fn only_the_keys_of_a_node_that_is_not_usable_move() {
        let ring = ring(&[1, 1, 1, 1]);
        for key in 0..10_000 {
            let key = crc32(format!("key-{key}").as_bytes());
            let all = ring.find(key, |_| true).unwrap();
            let rest = ring.find(key, |node| node != 2).unwrap();
            assert!(rest != 2 && (all == rest || all == 2), "{key}");
        }
        assert_eq!(ring.find(7, |_| false), None);
    }

    /// What APISIX's own tests of `chash` expect (`t/node/chash-balance.t`, `chash-hashon.t`).
    #[test]
    fn keys_meet_the_nodes_that_they_meet_in_apisix() {
        let nodes = |count: u16| {
            let members = (1980..1980 + count).map(|port| Member {
                host: "127.0.0.1",
                port,
                weight: 1,
            });
            Ring::new(&members.collect::<Vec<_>>())
        };
        let (two, three) = (nodes(2), nodes(3));
        let meets = |ring: &Ring, key: &str| ring.find(crc32(key.as_bytes()), |_| true).unwrap();
        for (ring, key, node) in [
            (&two, "127.0.0.1", 0),
            (&three, "127.0.0.1", 2),
            (&two, "jack", 1),
            (&two, "tom", 0),
            (&two, "custom-one", 0),
            (&two, "cuscookie", 1),
            (&two, "custom-one-custom-two", 0),
        ] {
            assert_eq!(meets(ring, key), node, "{key}");
        }
        for (prefix, shares) in [("var=2&var2=", [5, 8, 5]), ("", [6, 7, 5])] {
            let mut counts = [0; 3];
            (1..=18).for_each(|key| counts[meets(&three, &format!("{prefix}{key}"))] += 1);
            assert_eq!(counts, shares, "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn any_key_has_a_node_where_one_is_usable(
            hash in any::<u32>(),
            weights in proptest::collection::vec(0_u32..20, 0..6),
            usable in any::<u8>(),
        ) {
            let is_usable = |node: usize| usable >> node & 1 == 1;
            let found = ring(&weights).find(hash, is_usable);
            let candidates: Vec<_> = (0..weights.len())
                .filter(|node| is_usable(*node) && (weights[*node] > 0 || weights.len() == 1))
                .collect();
            prop_assert_eq!(found.is_some(), !candidates.is_empty());
            prop_assert!(found.is_none_or(|node| candidates.contains(&node)));
        }
    }
}
