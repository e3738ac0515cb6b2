//! HTTP/2 (RFC 9113), both ends of a connection, with header compression of its own (RFC 7541).
//!
//! One task moves a connection; its streams' users are tasks of the same thread. What they send is
//! written into the connection's one buffer as they send it, and what comes is given to them as it was
//! read: there is no queue of frames on either way, and no lock. Room is bounded everywhere: by windows
//! for content, by `Limits` for what a peer may make us do, and whoever takes nothing of what is
//! written to it is read no further.

mod blocks;
mod connection;
mod core;
mod digest;
mod error;
mod frame;
mod handle;
mod hpack;
mod message;
mod receive;
mod repeated;
mod send;
mod stock;
mod stream;
mod window;

#[cfg(test)]
mod tests;

pub use self::connection::{Connection, Handle, Incoming};
pub use self::core::{Limits, Role};
pub use self::error::{By, Error, Reason};
pub use self::frame::PREFACE;
pub use self::handle::{Piece, Reader, Writer};
pub use self::hpack::Group;
pub use self::message::{Answer, RequestHead, Trailers};
pub use self::stock::Stock;
