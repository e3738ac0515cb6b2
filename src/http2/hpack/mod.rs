//! Header compression: HPACK (RFC 7541).

mod decode;
mod encode;
pub(super) mod field;
mod group;
mod huffman;
mod statics;

pub(super) use self::decode::{Decoder, Effect, NoBlock};
pub(super) use self::encode::Encoder;
pub(super) use self::field::Field;
pub use self::group::Group;

/// What a field counts in a table or a list beside its name and value, in bytes (RFC 7541 §4.1, RFC
/// 9113 §6.5.2).
pub(super) const OVERHEAD: usize = 32;

/// The size of both tables, unless a peer says less (RFC 9113 §6.5.2).
pub(super) const TABLE_BYTES: usize = 4096;
