//! Picking a node: round robin, consistent hashing, the fewest requests in flight, the quicker of
//! two. Health, retries and priorities are the caller's, by way of which nodes it calls usable.

mod hash_key;
mod ketama;
pub mod load;
mod round_robin;

pub use hash_key::HashKey;
pub use ketama::{Member, Ring};
pub use round_robin::WeightedRoundRobin;
