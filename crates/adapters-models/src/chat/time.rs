//! The time that a chat template writes, as Python's `strftime` does.

use std::fmt::{self, Write};
use std::str::FromStr;

use chrono::{Local, NaiveDateTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The local time that `strftime_now` of a chat template gives.
///
/// A run keeps the one it began with, so that its texts are the same when it is resumed on another day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatTime(NaiveDateTime);

/// Directives of C's `strftime`, without those of time zones, which a local time of Python does not have.
const DIRECTIVES: &str = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY";

impl ChatTime {
    /// The time now.
    pub fn now() -> Self {
        Self(Local::now().naive_local())
    }

    /// The time in a format of C's `strftime`, with Python's `%f`, the microseconds; `%z` and `%Z` are empty, as Python's are for a time
    /// without a zone.
    ///
    /// # Errors
    ///
    /// What is wrong with the format.
    pub(super) fn format(self, format: &str) -> Result<String, String> {
        const LONGEST: usize = 1024;
        let start: String = format.chars().take(40).collect();
        let refuse = |found: &str| {
            format!(
                "`strftime_now` expects a format of C's strftime of at most {LONGEST} bytes, found `{start}` with {found}"
            )
        };
        if format.len() > LONGEST {
            return Err(refuse("more"));
        }
        let (mut text, mut rest) = (String::new(), format.chars());
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive = rest.next();
            let flag = directive.filter(|c| "-_0".contains(*c));
            if flag.is_some() {
                directive = rest.next();
            }
            let written = match directive {
                Some('%') if flag.is_none() => {
                    text.push('%');
                    Ok(())
                }
                Some('f') if flag.is_none() => write!(text, "{}", self.0.format("%6f")),
                Some('z' | 'Z') if flag.is_none() => Ok(()),
                Some(directive) if DIRECTIVES.contains(directive) => {
                    let one: String = ['%'].into_iter().chain(flag).chain([directive]).collect();
                    // The writer fails where a directive takes no flag.
                    write!(text, "{}", self.0.format(&one))
                }
                _ => Err(fmt::Error),
            };
            if written.is_err() {
                let unknown: String = ['%'].into_iter().chain(flag).chain(directive).collect();
                return Err(refuse(&format!("`{unknown}`")));
            }
        }
        Ok(text)
    }
}

impl fmt::Display for ChatTime {
    /// As ISO 8601 has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%dT%H:%M:%S%.6f"))
    }
}

impl FromStr for ChatTime {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for ChatTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChatTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> ChatTime {
        "2026-01-05T09:07:03.000042".parse().unwrap()
    }

    /// `datetime(2026, 1, 5, 9, 7, 3, 42).strftime(..)` of Python 3.11 on Linux.
    #[test]
    fn directives_are_pythons() {
        for (format, expected) in [
            ("%d %b %Y", "05 Jan 2026"),
            ("%-d/%-m, %_H h", "5/1,  9 h"),
            (
                "%A %a %B %h %j %U %W %V %G %g %u %w",
                "Monday Mon January Jan 005 01 01 02 2026 26 1 1",
            ),
            ("%H:%M:%S.%f %I %l %k %p %P", "09:07:03.000042 09  9  9 AM am"),
            (
                "%c | %x | %X | %r | %R | %T",
                "Mon Jan  5 09:07:03 2026 | 01/05/26 | 09:07:03 | 09:07:03 AM | 09:07 | 09:07:03",
            ),
            (
                "%D %F %e %C %y 100%%[%z%Z]%n%t",
                "01/05/26 2026-01-05  5 20 26 100%[]\n\t",
            ),
            ("über %Y", "über 2026"),
        ] {
            assert_eq!(time().format(format).as_deref(), Ok(expected), "{format}");
        }
    }

    #[test]
    fn every_other_format_is_refused_and_none_panics() {
        for c in (0..=255u8).map(char::from) {
            for format in [format!("%{c}"), format!("%-{c}"), format!("%#{c}"), format!("%.3{c}")] {
                let written = time().format(&format);
                let known = DIRECTIVES.contains(c) || "%fzZ".contains(c);
                assert!(written.is_ok() || !known || format.len() > 2, "{format}");
                assert!(written.is_err() || known || format == "%-f", "{format}: {written:?}");
            }
        }
        for format in ["%", "%-", "%é", "%:z", "%3f", "%+", "%s", "%Ey"] {
            assert!(time().format(format).unwrap_err().contains('`'), "{format}");
        }
        assert!(time().format(&"%Y".repeat(600)).is_err());
    }

    #[test]
    fn a_time_comes_back() {
        let json = serde_json::to_string(&time()).unwrap();
        assert_eq!(json, r#""2026-01-05T09:07:03.000042""#);
        assert_eq!(serde_json::from_str::<ChatTime>(&json).unwrap(), time());
        assert!(serde_json::from_str::<ChatTime>(r#""yesterday""#).is_err());
    }
}
