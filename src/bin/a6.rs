//! The client, `a6`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::client::main()
}
