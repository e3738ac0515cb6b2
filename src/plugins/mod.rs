//! Plugins at work: what a route's or a service's `plugins` do to its requests, one file each.
//!
//! What a plugin may ask for is read in `resource::plugins`. A route or service that names one that
//! is not known is refused when it is written (`unknown plugin [name]`), so nothing that an
//! operator asked for is left undone.

pub mod proxy_rewrite;
