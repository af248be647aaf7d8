//! The text form: `Stack(a, Fuse(b, c))`.
//!
//! ```text
//! setup    = name | block "(" [ item { "," item } [ "," ] ] ")"
//! item     = setup | argument "=" value            arguments after all children, each once
//! value    = integer | list | boolean | name       whichever the argument takes
//! list     = "[" [ number { "," number } [ "," ] ] "]"
//! name     = bare | quoted
//! ```
//!
//! A recursive descent over the characters. Every error says the column, and recursion is bounded by [`MAX_NESTING`].

use std::fmt::{self, Write as _};
use std::str::FromStr;

use super::{BlockKind, Composition, CompositionError, Location, MAX_NESTING, equal_weights, normalized};
use adapters_nn::nearest;

impl FromStr for Composition {
    type Err = CompositionError;

    /// Reads the text form. Nesting rules are left to [`Composition::validate`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { text, position: 0 };
        let setup = parser.setup(1)?;
        match parser.peek() {
            None => Ok(setup),
            Some(_) => Err(parser.unexpected("the end of the text")),
        }
    }
}

/// Whether a name can hold this character without quotes.
fn is_bare(c: char) -> bool {
    c.is_alphanumeric() || "_-./@:+#".contains(c)
}

/// Writes a name so that it reads back as the same name.
pub(super) fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if !name.is_empty() && name.chars().all(is_bare) && BlockKind::block(name).is_none() {
        return f.write_str(name);
    }
    f.write_char('"')?;
    for c in name.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "{}", c.escape_unicode())?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// One integer for every child, or one for each.
enum Sizes {
    Same(usize),
    Each(Vec<usize>),
}

impl Sizes {
    fn of(self, children: &[Composition]) -> Vec<usize> {
        match self {
            Self::Same(size) => vec![size; children.len()],
            Self::Each(sizes) => sizes,
        }
    }
}

/// The keyword arguments of one block, as far as they were read.
#[derive(Default)]
struct Arguments {
    name: Option<String>,
    sizes: Option<Sizes>,
    weights: Option<(usize, Vec<f64>)>,
    normalize: Option<bool>,
}

struct Parser<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    position: usize,
}

type Parsed<T> = Result<T, CompositionError>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    /// The next character that is not white space; it becomes the next one to read.
    fn peek(&mut self) -> Option<char> {
        self.position = self.text.len() - self.rest().trim_start().len();
        self.rest().chars().next()
    }

    /// Takes the next character if it is this one.
    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.position += c.len_utf8();
        }
        found
    }

    /// Takes the bare word that comes next; empty if there is none.
    fn word(&mut self) -> &'a str {
        self.peek();
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !is_bare(c)).unwrap_or(rest.len())];
        self.position += word.len();
        word
    }

    fn at(&self, position: usize) -> Location {
        Location::Column(self.text[..position].chars().count() + 1)
    }

    /// The error that something else was expected where the parser stands.
    fn unexpected(&mut self, expected: &str) -> CompositionError {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(first) => {
                let word: String = self.rest().chars().take_while(|c| is_bare(*c)).take(40).collect();
                if word.is_empty() {
                    format!("`{first}`")
                } else {
                    format!("`{word}`")
                }
            }
        };
        self.error(self.position, expected, found)
    }

    fn error(&self, position: usize, expected: &str, found: String) -> CompositionError {
        CompositionError::Unexpected {
            at: self.at(position),
            expected: expected.to_owned(),
            found,
        }
    }

    fn setup(&mut self, level: usize) -> Parsed<Composition> {
        match self.peek() {
            Some('"' | '\'') => return Ok(Composition::Adapter(self.quoted()?)),
            Some(c) if is_bare(c) => {}
            _ => return Err(self.unexpected("an adapter name or a block")),
        }
        let start = self.position;
        let word = self.word();
        match (BlockKind::block(word), self.take('(')) {
            (Some(kind), true) if level < MAX_NESTING => self.block(kind, start, level),
            (Some(_), true) => Err(CompositionError::TooNested {
                at: self.at(start),
                limit: MAX_NESTING,
            }),
            (Some(kind), false) => {
                let expected = format!("`(` after {kind} (quote it if it names an adapter)");
                Err(self.unexpected(&expected))
            }
            (None, true) => Err(CompositionError::UnknownBlock {
                at: self.at(start),
                found: word.to_owned(),
                nearest: nearest(word, BlockKind::BLOCKS.map(BlockKind::name)),
            }),
            (None, false) => Ok(Composition::Adapter(word.to_owned())),
        }
    }

    /// The rest of a block, from behind its opening parenthesis.
    fn block(&mut self, kind: BlockKind, start: usize, level: usize) -> Parsed<Composition> {
        let (mut children, mut arguments, mut any_argument) = (Vec::new(), Arguments::default(), false);
        while !self.take(')') {
            self.peek();
            let item = self.position;
            let word = self.word();
            if !word.is_empty() && self.take('=') {
                self.argument(kind, word, item, &mut arguments)?;
                any_argument = true;
            } else {
                self.position = item;
                if any_argument {
                    return Err(self.unexpected("a keyword argument or `)`, as children come before arguments"));
                }
                children.push(self.setup(level + 1)?);
            }
            if !self.take(',') && self.peek() != Some(')') {
                return Err(self.unexpected("`,` or `)`"));
            }
        }
        self.build(kind, start, children, arguments)
    }

    fn argument(&mut self, kind: BlockKind, word: &str, start: usize, into: &mut Arguments) -> Parsed<()> {
        let repeated = match (kind, word) {
            (BlockKind::Fuse, "name") => into.name.replace(self.name()?).is_some(),
            (BlockKind::Split, "splits") | (BlockKind::BatchSplit, "batch_sizes") => {
                into.sizes.replace(self.sizes()?).is_some()
            }
            (BlockKind::Average, "weights") => {
                let weights = self.list("a finite number", |word| {
                    word.parse().ok().filter(|weight: &f64| weight.is_finite())
                })?;
                into.weights.replace((start, weights)).is_some()
            }
            (BlockKind::Average, "normalize" | "normalize_weights") => {
                let value = self.value("`true` or `false`", |word| match word {
                    "true" | "True" => Some(true),
                    "false" | "False" => Some(false),
                    _ => None,
                })?;
                into.normalize.replace(value).is_some()
            }
            _ => {
                return Err(CompositionError::UnknownArgument {
                    at: self.at(start),
                    block: kind,
                    found: word.to_owned(),
                    nearest: nearest(word, kind.arguments().iter().copied()),
                });
            }
        };
        if repeated {
            return Err(self.error(start, "each argument once", format!("a second `{word}`")));
        }
        Ok(())
    }

    fn build(
        &self,
        kind: BlockKind,
        start: usize,
        children: Vec<Composition>,
        arguments: Arguments,
    ) -> Parsed<Composition> {
        let sizes = |argument| match arguments.sizes {
            Some(sizes) => Ok(sizes.of(&children)),
            None => Err(CompositionError::MissingArgument {
                at: self.at(start),
                block: kind,
                argument,
            }),
        };
        Ok(match kind {
            // `setup` comes here with blocks only; a lone adapter in parentheses would be itself.
            BlockKind::Adapter | BlockKind::Stack => Composition::Stack(children),
            BlockKind::Parallel => Composition::Parallel(children),
            BlockKind::MultiTask => Composition::MultiTask(children),
            BlockKind::Fuse => Composition::Fuse {
                children,
                name: arguments.name,
            },
            BlockKind::Split => Composition::Split {
                splits: sizes("splits")?,
                children,
            },
            BlockKind::BatchSplit => Composition::BatchSplit {
                batch_sizes: sizes("batch_sizes")?,
                children,
            },
            BlockKind::Average => {
                let weights = match arguments.weights {
                    None => equal_weights(children.len()),
                    Some((_, weights)) if arguments.normalize == Some(false) => weights,
                    Some((start, weights)) => {
                        let normal = normalized(&weights);
                        if !normal.iter().all(|weight| weight.is_finite()) {
                            let found = format!("a sum of {:?}", weights.iter().sum::<f64>());
                            return Err(self.error(start, "weights that can be divided by their sum", found));
                        }
                        normal
                    }
                };
                Composition::Average { children, weights }
            }
        })
    }

    fn name(&mut self) -> Parsed<String> {
        match self.peek() {
            Some('"' | '\'') => self.quoted(),
            Some(c) if is_bare(c) => Ok(self.word().to_owned()),
            _ => Err(self.unexpected("a name")),
        }
    }

    fn sizes(&mut self) -> Parsed<Sizes> {
        if self.peek() == Some('[') {
            return self.list("a whole number", |word| word.parse().ok()).map(Sizes::Each);
        }
        self.value("a list of whole numbers, or one", |word| word.parse().ok())
            .map(Sizes::Same)
    }

    /// One bare word that `read` understands.
    fn value<T>(&mut self, expected: &str, read: impl Fn(&str) -> Option<T>) -> Parsed<T> {
        self.peek();
        let start = self.position;
        let value = read(self.word());
        value.ok_or_else(|| {
            self.position = start;
            self.unexpected(expected)
        })
    }

    fn list<T>(&mut self, expected: &str, read: impl Fn(&str) -> Option<T>) -> Parsed<Vec<T>> {
        if !self.take('[') {
            return Err(self.unexpected("`[`"));
        }
        let mut values = Vec::new();
        while !self.take(']') {
            values.push(self.value(expected, &read)?);
            if !self.take(',') && self.peek() != Some(']') {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
        Ok(values)
    }

    /// A quoted name; its opening quote, of either kind, is the next character.
    fn quoted(&mut self) -> Parsed<String> {
        let (text, start) = (self.text, self.position);
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map(|(_, c)| c);
        let mut name = String::new();
        while let Some((offset, c)) = chars.next() {
            match c {
                c if Some(c) == quote => {
                    self.position = start + offset + c.len_utf8();
                    return Ok(name);
                }
                '\\' => {
                    let escape = chars.next().and_then(|(_, c)| match c {
                        'n' => Some('\n'),
                        'r' => Some('\r'),
                        't' => Some('\t'),
                        '"' | '\'' | '\\' => Some(c),
                        'u' => {
                            let (hex, _) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                            let code = u32::from_str_radix(hex, 16).ok()?;
                            // The digits are ASCII, or they would not have been read: one character a byte.
                            chars.nth(hex.len() + 1)?;
                            char::from_u32(code)
                        }
                        _ => None,
                    });
                    let Some(escape) = escape else {
                        let found = text[start + offset..].chars().take(2).collect::<String>();
                        let expected = r#"an escape: \" \' \\ \n \r \t or \u{hex}"#;
                        return Err(self.error(start + offset, expected, format!("`{found}`")));
                    };
                    name.push(escape);
                }
                c => name.push(c),
            }
        }
        let found = "the end of the text".to_owned();
        Err(self.error(text.len(), "the closing quote of the name", found))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::composition::dict::tests::any_composition;

    fn parse(text: &str) -> Composition {
        text.parse().unwrap()
    }

    fn message(text: &str) -> String {
        text.parse::<Composition>().unwrap_err().to_string()
    }

    #[test]
    fn reads_and_prints_every_block() {
        for text in [
            "a",
            "sentiment/sst-2@ukp",
            "\"my adapter\"",
            "\"Stack\"",
            "Stack(a, Fuse(b, c))",
            "Fuse(a, b, name=ab)",
            "Fuse(a, b, name=\"a,b\")",
            "Split(a, b, splits=[2, 5])",
            "BatchSplit(a, Stack(b, c), batch_sizes=[1, 2])",
            "Parallel(a, b)",
            "Average(a, b)",
            "Average(a, b, weights=[0.7, 0.3])",
            "Average(a, b, weights=[2.0, -0.5], normalize=false)",
            "MultiTask(a, b)",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn reads_the_constructor_calls_of_the_reference() {
        let text = "Stack('a', Split( \"b\" ,'c' , splits = 64,),)";
        assert_eq!(
            parse(text),
            Composition::stack(["a".into(), Composition::split(["b", "c"], [64, 64])])
        );
        let text = "Average('a', 'b', weights=[3, 1], normalize_weights=True)";
        assert_eq!(parse(text), Composition::weighted_average(["a", "b"], [3.0, 1.0]));
        assert_eq!(parse(r#"'it\'s\u{1f600}\n'"#), Composition::adapter("it's\u{1f600}\n"));
    }

    #[test]
    fn errors_say_column_expectation_and_finding() {
        for (text, expected) in [
            (
                "",
                "column 1: expected an adapter name or a block, found the end of the text",
            ),
            (
                "Stack(a, b",
                "column 11: expected `,` or `)`, found the end of the text",
            ),
            ("Stack(a b)", "column 9: expected `,` or `)`, found `b`"),
            ("a, b", "column 2: expected the end of the text, found `,`"),
            (
                "Stack(ä, Sttack(b))",
                "column 10: no block is called `Sttack`; did you mean `Stack`?",
            ),
            ("Houlsby(b)", "column 1: no block is called `Houlsby`"),
            (
                "Stack",
                "column 6: expected `(` after Stack (quote it if it names an adapter), found the end of the text",
            ),
            ("Split(a, b)", "column 1: Split needs the argument `splits`"),
            (
                "Split(a, split=2)",
                "column 10: Split takes `splits`, found `split`; did you mean `splits`?",
            ),
            ("Stack(a, name=b)", "column 10: Stack takes no arguments, found `name`"),
            (
                "Split(a, splits=[1, -2])",
                "column 21: expected a whole number, found `-2`",
            ),
            (
                "Split(a, splits=x)",
                "column 17: expected a list of whole numbers, or one, found `x`",
            ),
            (
                "Split(a, splits=1, splits=1)",
                "column 20: expected each argument once, found a second `splits`",
            ),
            (
                "Average(a, weights=[inf])",
                "column 21: expected a finite number, found `inf`",
            ),
            (
                "Average(a, b, weights=[1, -1])",
                "column 15: expected weights that can be divided by their sum, found a sum of 0.0",
            ),
            (
                "Average(a, b, weights=[1e308, 1e308])",
                "column 15: expected weights that can be divided by their sum, found a sum of inf",
            ),
            (
                "Fuse(name=x, a)",
                "column 14: expected a keyword argument or `)`, as children come before arguments, found `a`",
            ),
            (
                "\"a",
                "column 3: expected the closing quote of the name, found the end of the text",
            ),
            (
                r#"Stack("a\q")"#,
                r#"column 9: expected an escape: \" \' \\ \n \r \t or \u{hex}, found `\q`"#,
            ),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| format!("{}a{}", "Stack(".repeat(levels), ")".repeat(levels));
        assert!(nested(MAX_NESTING - 1).parse::<Composition>().is_ok());
        assert_eq!(
            message(&nested(MAX_NESTING)),
            "column 187: nested more than 32 levels deep"
        );
        assert_eq!(
            message(&"Stack(".repeat(1_000_000)),
            "column 187: nested more than 32 levels deep"
        );
    }

    proptest! {
        #[test]
        fn text_reads_back(setup in any_composition()) {
            let text = setup.to_string();
            prop_assert_eq!(text.parse::<Composition>(), Ok(setup), "{}", text);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Composition>();
        }

        #[test]
        fn no_near_miss_panics_and_what_is_read_prints_back(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "Stack(", "Average(", "Fuse(", "Split(", "splits=", "weights=", "normalize=false", "name=", "a", "1",
                "-0.5", "1e400", "(", ")", ")", "[", "]", ",", ",", " ", "\"", "'", "\\", "\\u{", "}", "ä", "=",
            ]), 0..12),
        ) {
            if let Ok(setup) = tokens.concat().parse::<Composition>() {
                prop_assert_eq!(setup.to_string().parse(), Ok(setup));
            }
        }
    }
}
