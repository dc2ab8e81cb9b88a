//! Sizes as people write them: `20GiB`, `512KiB`, `1.5TiB`, `80%`.

use std::fmt;
use std::str::FromStr;

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    #[error("{text:?} is no size; write a number with a unit, as 512KiB, 20GiB or 1TB")]
    NoSize { text: String },
    #[error("{text:?} is larger than any disk")]
    TooLarge { text: String },
    #[error("{text:?} is no share; write 1% to 100%")]
    NoShare { text: String },
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The size of a store: a number of bytes, or a share of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreSize {
    Bytes(u64),
    /// 1 to 100 percent of the file system that holds the data directory.
    Percent(u8),
}

const UNITS: [(&str, u64); 17] = [
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("ki", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mi", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gi", 1 << 30),
    ("gib", 1 << 30),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
];

impl FromStr for Bytes {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let no_size = || SizeError::NoSize { text: text.to_owned() };
        let trimmed = text.trim();
        let split =
            trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim().to_ascii_lowercase();
        let unit = match unit.as_str() {
            "t" | "ti" => &format!("{}ib", &unit[..1]),
            "e" | "eb" | "ei" | "eib" => return exbibytes(number).ok_or_else(no_size),
            _ => &unit,
        };
        let (_, unit) = UNITS.iter().find(|(name, _)| name == unit).ok_or_else(no_size)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole: u64 = match whole.parse() {
            Ok(whole) => whole,
            Err(_) if !whole.is_empty() && whole.bytes().all(|digit| digit.is_ascii_digit()) => {
                return Err(SizeError::TooLarge { text: text.to_owned() });
            }
            Err(_) => return Err(no_size()),
        };
        let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=9).contains(digits));
        let scale = 10_u128.pow(digits.ok_or_else(no_size)?);
        let fraction: u128 = fraction.parse().map_err(|_| no_size())?;
        let bytes = (u128::from(whole) * scale + fraction) * u128::from(*unit) / scale;
        let bytes =
            u64::try_from(bytes).map_err(|_| SizeError::TooLarge { text: text.to_owned() })?;
        Ok(Self(bytes))
    }
}

/// Up to 15: what is more does not fit.
fn exbibytes(number: &str) -> Option<Bytes> {
    number.parse::<u64>().ok().filter(|count| *count < 16).map(|count| Bytes(count << 60))
}

impl FromStr for StoreSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let Some(share) = text.trim().strip_suffix('%') else {
            return Bytes::from_str(text).map(|Bytes(bytes)| Self::Bytes(bytes));
        };
        match share.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(SizeError::NoShare { text: text.to_owned() }),
        }
    }
}

/// `20.0 GiB`: below ten bytes as they are, else three digits or so and a binary unit.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let unit = (0..NAMES.len() - 1).find(|unit| self.0 >> (10 * (unit + 1)) == 0);
        let unit = unit.unwrap_or(NAMES.len() - 1);
        let tenths = (u128::from(self.0) * 10 + (1 << (10 * unit) >> 1)) >> (10 * unit);
        if unit == 0 {
            write!(f, "{} B", self.0)
        } else if tenths < 1000 {
            write!(f, "{}.{} {}", tenths / 10, tenths % 10, NAMES[unit])
        } else {
            write!(f, "{} {}", (tenths + 5) / 10, NAMES[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let found = match text.parse::<StoreSize>() {
            Ok(StoreSize::Bytes(bytes)) => format!("{bytes} = {}", Bytes(bytes)),
            Ok(StoreSize::Percent(percent)) => format!("{percent} percent"),
            Err(error) => format!("error: {error}"),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn units_are_binary_or_decimal() {
        check("20GiB", expect!["21474836480 = 20.0 GiB"]);
        check("512 KiB", expect!["524288 = 512 KiB"]);
        check("1.5TiB", expect!["1649267441664 = 1.5 TiB"]);
        check("10GB", expect!["10000000000 = 9.3 GiB"]);
        check("4096", expect!["4096 = 4.0 KiB"]);
        check("1EiB", expect!["1152921504606846976 = 1.0 EiB"]);
        check("0", expect!["0 = 0 B"]);
    }

    #[test]
    fn shares_are_whole_percents() {
        check("80%", expect!["80 percent"]);
        check("0%", expect![[r#"error: "0%" is no share; write 1% to 100%"#]]);
        check("101%", expect![[r#"error: "101%" is no share; write 1% to 100%"#]]);
    }

    #[test]
    fn nonsense_is_named() {
        check(
            "10XB",
            expect![[
                r#"error: "10XB" is no size; write a number with a unit, as 512KiB, 20GiB or 1TB"#
            ]],
        );
        check(
            "",
            expect![[
                r#"error: "" is no size; write a number with a unit, as 512KiB, 20GiB or 1TB"#
            ]],
        );
        check(
            "-1GiB",
            expect![[
                r#"error: "-1GiB" is no size; write a number with a unit, as 512KiB, 20GiB or 1TB"#
            ]],
        );
        check("99999999999TiB", expect![[r#"error: "99999999999TiB" is larger than any disk"#]]);
        check(
            "99999999999999999999",
            expect![[r#"error: "99999999999999999999" is larger than any disk"#]],
        );
    }
}
