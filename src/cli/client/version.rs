//! `a6 version`: the public tool's shape, with OpenSSL where it names Go.

use serde_json::json;

use super::failed::Failed;
use super::format::{Format, Shape};
use super::platform;
use crate::crypto;
use crate::crypto::fips::Mode;

/// Set by the build; a plain `cargo build` knows neither.
const COMMIT: Option<&str> = option_env!("PORTCULLIS_COMMIT");
const BUILT: Option<&str> = option_env!("PORTCULLIS_BUILT");

/// Program, build and OpenSSL.
///
/// # Errors
/// A format that is not offered.
pub(super) fn run(output: Option<&str>) -> Result<String, Failed> {
    let format = Format::choose(output, Shape::Text)?;
    let version = env!("CARGO_PKG_VERSION");
    let (commit, built) = (COMMIT.unwrap_or("unknown"), BUILT.unwrap_or("unknown"));
    let is_fips = crypto::fips::mode() == Mode::Fips;
    let value = json!({
        "version": version,
        "commit": commit,
        "buildDate": built,
        "platform": platform(),
        "openssl": crypto::version(),
        "fips": is_fips,
    });
    Ok(format.show(&value, || {
        format!(
            "a6 version {version}\n  commit:   {commit}\n  built:    {built}\n  openssl:  {}\n  \
             fips:     {}\n  platform: {}",
            crypto::version(),
            if is_fips { "on" } else { "off" },
            platform()
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_public_tools_lines_and_openssls() {
        let text = run(None).unwrap();
        assert!(text.starts_with(concat!("a6 version ", env!("CARGO_PKG_VERSION"), "\n")));
        for name in ["commit:", "built:", "openssl:", "fips:", "platform:"] {
            assert!(
                text.lines().any(|line| line.trim_start().starts_with(name)),
                "{text}"
            );
        }
    }

    #[test]
    fn json_has_the_public_tools_keys() {
        let value: serde_json::Value = serde_json::from_str(&run(Some("json")).unwrap()).unwrap();
        for key in [
            "version",
            "commit",
            "buildDate",
            "platform",
            "openssl",
            "fips",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert!(run(Some("yaml")).unwrap().contains("buildDate: "));
    }
}
