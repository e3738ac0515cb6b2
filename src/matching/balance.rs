//! Picking a node: round robin, the fewest requests in flight, the quicker of two. Health, retries
//! and priorities are the caller's, by way of which nodes it calls usable.

pub mod load;
mod round_robin;

pub use round_robin::WeightedRoundRobin;
