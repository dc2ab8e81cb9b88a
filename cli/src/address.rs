//! Addresses as people write them: `127.0.0.1:40000`, `http://node-1:40000`, lists of them.

use std::fmt;
use std::str::FromStr;

/// The port when none is given.
const DEFAULT_PORT: u16 = 40000;

/// Where a daemon is reached: `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(String);

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address; write HOST:PORT, as 127.0.0.1:40000")]
pub struct AddressError {
    text: String,
}

impl Address {
    /// `HOST:PORT`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the host part is no host of anybody's, as `0.0.0.0`.
    pub fn is_unspecified(&self) -> bool {
        ["0.0.0.0:", "[::]:", "*:"].iter().any(|host| self.0.starts_with(host))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Takes the form of a URL too, as Torus did.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError { text: text.to_owned() };
        let bare = text.trim();
        let bare = bare.strip_prefix("http://").unwrap_or(bare).trim_end_matches('/');
        let no_host = |c: char| c.is_whitespace() || c == '/' || c == ',' || c == '@';
        if bare.is_empty() || bare.contains(no_host) {
            return Err(error());
        }
        let behind_brackets = bare.rfind(']').map_or(0, |end| end + 1);
        match bare[behind_brackets..].rsplit_once(':') {
            None => Ok(Self(format!("{bare}:{DEFAULT_PORT}"))),
            Some((host, port)) => {
                let has_host = behind_brackets > 0 || (!host.is_empty() && !host.contains(':'));
                match port.parse::<u16>() {
                    Ok(1..) if has_host => Ok(Self(bare.to_owned())),
                    _ => Err(error()),
                }
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let found = text.parse::<Address>().map_or_else(|e| e.to_string(), |a| a.to_string());
        expected.assert_eq(&found);
    }

    #[test]
    fn urls_and_bare_addresses_are_the_same() {
        check("http://127.0.0.1:40000", expect!["127.0.0.1:40000"]);
        check("127.0.0.1:40001", expect!["127.0.0.1:40001"]);
        check("node-1", expect!["node-1:40000"]);
        check("[::1]:40000", expect!["[::1]:40000"]);
    }

    #[test]
    fn nonsense_is_named() {
        let no =
            |text: &str| format!("{text:?} is no address; write HOST:PORT, as 127.0.0.1:40000");
        for text in ["", ":40000", "127.0.0.1:0", "127.0.0.1:99999", "a b:1", "::1:40000", "a:x"] {
            assert_eq!(text.parse::<Address>().unwrap_err().to_string(), no(text));
        }
    }
}
