//! Secrets: how keys are kept, shown and kept again.
//!
//! [`custody`] seals what the store keeps, and sees to it that no reply shows a key. Which member
//! of which resource is a secret is said in one place, [`custody::places`].

pub mod custody;
