//! The `a6` command line as people and scripts use it: the real program against the real gateway,
//! and against what looks like Apache APISIX.

mod apisix;
mod audit;
mod connection;
mod context;
mod declared;
mod ours;
mod page;
mod probe;
mod prompt;
mod recipe;
mod resources;
