//! Plugins: one trait, one file each with its schema. There is none yet.
//!
//! A route or service that names a plugin is refused when it is written (`unknown plugin [name]`),
//! so nothing that an operator asked for is left undone.
