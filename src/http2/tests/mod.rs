//! The connection as a whole: against the crate `h2`, against bytes of all kinds, under attack.

mod again;
mod attacks;
mod faults;
mod hostile;
mod oracle;
mod rules;
mod wire;
