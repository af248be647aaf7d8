//! The text form: `Stack(a, Fuse(b, c))`.
//!
//! ```text
//! setup    = name | block "(" [ item { "," item } [ "," ] ] ")"
//! item     = setup | argument "=" value            arguments after all children, each once
//! name     = word | quoted
//! ```
//!
//! [`text`](crate::text) says what words, quoted text and values are. Every error says the column, and recursion is bounded
//! by [`MAX_NESTING`].

use std::str::FromStr;

use serde_json::Value;

use super::{BlockKind, Composition, CompositionError, MAX_NESTING, equal_weights, normalized};
use crate::text::{Cursor, Literal, Unexpected};
use adapters_nn::nearest;

impl FromStr for Composition {
    type Err = CompositionError;

    /// Reads the text form. Nesting rules are left to [`Composition::validate`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut cursor = Cursor::new(text);
        let composition = setup(&mut cursor, 1)?;
        match cursor.peek() {
            None => Ok(composition),
            Some(_) => Err(cursor.unexpected("the end of the text").into()),
        }
    }
}

type Parsed<T> = Result<T, CompositionError>;

fn setup(cursor: &mut Cursor<'_>, level: usize) -> Parsed<Composition> {
    match cursor.peek() {
        Some('"' | '\'') => return Ok(Composition::Adapter(cursor.quoted()?)),
        _ if cursor.at_text() => {}
        _ => return Err(cursor.unexpected("an adapter name or a block").into()),
    }
    let column = cursor.column();
    let word = cursor.word();
    match (BlockKind::block(word), cursor.eat('(')) {
        (Some(_), true) if level >= MAX_NESTING => Err(CompositionError::TooNested {
            column,
            limit: MAX_NESTING,
        }),
        (Some(kind), true) => block(cursor, kind, column, level),
        (Some(kind), false) => {
            let expected = format!("`(` after {kind} (quote it if it names an adapter)");
            Err(cursor.unexpected(&expected).into())
        }
        (None, true) => Err(CompositionError::UnknownBlock {
            column,
            found: word.to_owned(),
            nearest: nearest(word, BlockKind::BLOCKS.map(BlockKind::name)),
        }),
        (None, false) => Ok(Composition::Adapter(word.to_owned())),
    }
}

/// The rest of a block, from behind its opening parenthesis.
fn block(cursor: &mut Cursor<'_>, kind: BlockKind, column: usize, level: usize) -> Parsed<Composition> {
    let (mut children, mut given) = (Vec::new(), Vec::new());
    while !cursor.eat(')') {
        let (column, mut ahead) = (cursor.column(), cursor.clone());
        let word = ahead.word();
        if !word.is_empty() && ahead.eat('=') {
            *cursor = ahead;
            let name = argument(kind, word, column)?;
            if given.iter().any(|other: &Argument| other.name == name) {
                let (expected, found) = ("each argument once".to_owned(), format!("a second `{word}`"));
                return Err(CompositionError::Unexpected {
                    column,
                    expected,
                    found,
                });
            }
            given.push(Argument {
                name,
                column: cursor.column(),
                value: cursor.value()?,
            });
        } else if given.is_empty() {
            children.push(setup(cursor, level + 1)?);
        } else {
            let expected = "a keyword argument or `)`, as children come before arguments";
            return Err(cursor.unexpected(expected).into());
        }
        if !cursor.eat(',') && cursor.peek() != Some(')') {
            return Err(cursor.unexpected("`,` or `)`").into());
        }
    }
    Arguments {
        block: kind,
        column,
        given,
    }
    .complete(children)
}

/// The name of an argument that a block takes; the reference's longer name of one is understood.
fn argument(block: BlockKind, word: &str, column: usize) -> Parsed<&'static str> {
    let name = match (block, word) {
        (BlockKind::Average, "normalize_weights") => "normalize",
        _ => word,
    };
    let known = block.arguments().iter().find(|known| **known == name);
    known.copied().ok_or_else(|| CompositionError::UnknownArgument {
        column,
        block,
        found: word.to_owned(),
        nearest: nearest(word, block.arguments().iter().copied()),
    })
}

/// A keyword argument, and where its value begins.
struct Argument {
    name: &'static str,
    column: usize,
    value: Value,
}

/// The keyword arguments of a block, which begins at this column.
struct Arguments {
    block: BlockKind,
    column: usize,
    given: Vec<Argument>,
}

impl Arguments {
    /// The block of these children.
    fn complete(&self, children: Vec<Composition>) -> Parsed<Composition> {
        Ok(match self.block {
            // A single adapter has no parentheses.
            BlockKind::Adapter | BlockKind::Stack => Composition::Stack(children),
            BlockKind::Parallel => Composition::Parallel(children),
            BlockKind::MultiTask => Composition::MultiTask(children),
            BlockKind::Fuse => Composition::Fuse {
                name: self.get("name", "a name", |value| Some(value.as_str()?.to_owned()))?,
                children,
            },
            BlockKind::Split => Composition::Split {
                splits: self.sizes("splits", children.len())?,
                children,
            },
            BlockKind::BatchSplit => Composition::BatchSplit {
                batch_sizes: self.sizes("batch_sizes", children.len())?,
                children,
            },
            BlockKind::Average => Composition::Average {
                weights: self.weights(children.len())?,
                children,
            },
        })
    }

    /// An argument as `read` understands it; `None` where it is not given.
    fn get<T>(&self, name: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Parsed<Option<T>> {
        let Some(argument) = self.given.iter().find(|argument| argument.name == name) else {
            return Ok(None);
        };
        match read(&argument.value) {
            Some(value) => Ok(Some(value)),
            None => Err(Unexpected {
                column: argument.column,
                expected: expected.to_owned(),
                found: format!("`{}`", Literal(&argument.value)),
            }
            .into()),
        }
    }

    /// One whole number for each child, or one for all.
    fn sizes(&self, argument: &'static str, children: usize) -> Parsed<Vec<usize>> {
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        let sizes = self.get(argument, "a list of whole numbers, or one", |value| match value {
            Value::Array(values) => values.iter().map(size).collect(),
            value => size(value).map(|size| vec![size; children]),
        })?;
        sizes.ok_or(CompositionError::MissingArgument {
            column: self.column,
            block: self.block,
            argument,
        })
    }

    fn weights(&self, children: usize) -> Parsed<Vec<f64>> {
        let list = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
        let weights: Option<Vec<f64>> = self.get("weights", "a list of finite numbers", list)?;
        let Some(weights) = weights else {
            return Ok(equal_weights(children));
        };
        if self.get("normalize", "`true` or `false`", Value::as_bool)? == Some(false) {
            return Ok(weights);
        }
        let expected = format!(
            "weights that can be divided by their sum, which is {:?}",
            weights.iter().sum::<f64>()
        );
        let normal = normalized(&weights);
        let finite = normal.iter().all(|weight| weight.is_finite());
        self.get("weights", &expected, |_| finite.then_some(()))?;
        Ok(normal)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::composition::tests::any_composition;

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
            "Fuse(a, b, name='a,b')",
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
                "column 10: unknown composition block `Sttack`; did you mean `Stack`?",
            ),
            ("Houlsby(b)", "column 1: unknown composition block `Houlsby`"),
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
                "column 17: expected a list of whole numbers, or one, found `[1,-2]`",
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
                "column 20: expected a list of finite numbers, found `[inf]`",
            ),
            (
                "Average(a, b, weights=[1, -1])",
                "column 23: expected weights that can be divided by their sum, which is 0.0, found `[1,-1]`",
            ),
            (
                "Average(a, b, weights=[1e308, 1e308])",
                "column 23: expected weights that can be divided by their sum, which is inf, found `[1e+308,1e+308]`",
            ),
            (
                "Fuse(name=x, a)",
                "column 14: expected a keyword argument or `)`, as children come before arguments, found `a`",
            ),
            ("\"a", "column 3: expected the closing quote, found the end of the text"),
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
