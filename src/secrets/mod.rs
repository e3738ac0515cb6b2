//! Secrets: where values are kept that documents refer to, and how keys are kept, shown and kept
//! again.
//!
//! [`custody`] seals what the store keeps, and sees to it that no reply shows a key. Which member
//! of which resource is a secret is said in one place, [`custody::places`].
//!
//! | module | what it does |
//! |---|---|
//! | [`reference`](mod@reference) | takes `$secret://…` and `$env://…` apart |
//! | [`source`] | is the trait of what keeps secrets, with its answers and faults |
//! | [`env`](mod@env), [`file`](mod@file), [`vault`], [`aws`], [`gcp`], [`kubernetes`] | are sources |
//! | [`generation`] | is what a resource's references stand for, accepted together, kept sealed |
//! | [`ground`] | is what managers are opened with: clients, credentials, the fence around these |
//! | [`news`] | is what managers tell by themselves |
//! | [`watch`] | tells of files that may have changed |
//! | [`desk`](mod@desk) | resolves references, each path once, in bounded time |
//! | [`settings`] | is what the configuration says of it |

pub mod aws;
#[cfg(test)]
mod contract;
pub mod custody;
pub mod desk;
pub mod env;
pub mod file;
pub mod gcp;
pub mod generation;
pub mod ground;
pub mod kubernetes;
pub mod news;
pub mod reference;
pub mod settings;
pub mod source;
#[cfg(test)]
mod standin;
pub mod vault;
pub mod watch;
mod wire;
