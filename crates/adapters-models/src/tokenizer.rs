//! Text to token ids, through the published `tokenizer.json`, or what transformers makes of older files.

use std::ops::Range;
use std::path::{Path, PathBuf};

use adapters_store::{StoreError, check_unique, is_there, read_file};
use tokenizers::{EncodeInput, Encoding, PostProcessor, Tokenizer, TruncationParams};

use crate::encoded::Encoded;
use crate::error::ModelError;
use crate::{tokenizer_parts, vocabulary_files};

const FILE: &str = "tokenizer.json";

/// An encoded input with the origin of each token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlignedText {
    /// Ids and types.
    pub encoded: Encoded,
    /// Where each token comes from; `None` for special tokens.
    pub origins: Vec<Option<TokenOrigin>>,
}

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrigin {
    /// 0 for the first text of a pair, 1 for the second.
    pub text: usize,
    /// The word, of an input that was given as words.
    pub word: usize,
    /// Bytes of the text, or of the word.
    pub bytes: Range<usize>,
}

/// The tokenizer of a checkpoint. Truncates from the right, never pads: batches do that.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    path: PathBuf,
    inner: Tokenizer,
}

impl TextTokenizer {
    /// Whether a folder has a tokenizer that is read: `tokenizer.json`, or vocabulary files.
    pub fn is_in(dir: &Path) -> bool {
        is_there(&dir.join(FILE)) || vocabulary_files::are_in(dir)
    }

    /// Reads `tokenizer.json` of a checkpoint folder. Without one, `vocab.txt` (WordPiece), or `vocab.json` and `merges.txt` (byte-level BPE)
    /// become the tokenizer that transformers makes of them.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`] if the folder has none, [`ModelError::Tokenizer`] if it does not parse, cannot truncate to
    /// `max_length`, or belongs to a class of transformers whose rules are not known here.
    pub fn load(dir: &Path, max_length: usize) -> Result<Self, ModelError> {
        let (path, mut inner) = match dir.join(FILE) {
            path if is_there(&path) => (path.clone(), published(&path)?),
            _ => vocabulary_files::tokenizer(dir)?,
        };
        inner.with_padding(None);
        // The library takes one from the other.
        let added = inner.get_post_processor().map_or(0, |parts| parts.added_tokens(false));
        if max_length < added {
            let message =
                format!("expected a length of {added} tokens or more, which it adds to each text, found {max_length}");
            return Err(refusal(&path, &message.into()));
        }
        let truncation = TruncationParams {
            max_length,
            ..TruncationParams::default()
        };
        let truncates = inner.with_truncation(Some(truncation)).map(drop);
        truncates.map_err(|error| refusal(&path, &error))?;
        Ok(Self { path, inner })
    }

    /// Encodes texts, each alone or with a second one.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode<'t>(
        &self,
        texts: impl IntoIterator<Item = (&'t str, Option<&'t str>)>,
    ) -> Result<Vec<Encoded>, ModelError> {
        /// Texts whose tokens are held at a time as the library has them, with hundreds of bytes for each.
        const AT_ONCE: usize = 1024;
        let mut inputs = texts.into_iter().map(|(text, pair)| {
            let text = self.shortened(text)?;
            Ok(match pair {
                Some(pair) => (text, self.shortened(pair)?).into(),
                None => text.into(),
            })
        });
        let mut rows = Vec::new();
        loop {
            let some: Vec<EncodeInput<'_>> = inputs.by_ref().take(AT_ONCE).collect::<Result<_, ModelError>>()?;
            if some.is_empty() {
                return Ok(rows);
            }
            let encodings = self.inner.encode_batch(some, true).map_err(|e| self.refuse(&e))?;
            rows.extend(encodings.iter().map(encoded));
        }
    }

    /// The start of a very long text, with more tokens than the longest input: the others would be cut off anyway, and the
    /// tokenizer needs hundreds of bytes for each.
    fn shortened<'t>(&self, text: &'t str) -> Result<&'t str, ModelError> {
        /// Tokens that a cut in the middle of a word may change.
        const MARGIN: usize = 64;
        const SHORT: usize = 1 << 16;
        let Some(longest) = self.inner.get_truncation().map(|truncation| truncation.max_length) else {
            return Ok(text);
        };
        let mut bytes = SHORT;
        while bytes < text.len() {
            let start = &text[..text.floor_char_boundary(bytes)];
            if self.encode_whole(start, false)?.len() >= longest.saturating_add(MARGIN) {
                return Ok(start);
            }
            bytes *= 4;
        }
        Ok(text)
    }

    /// Encodes words that are split already, each token with its word.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode_words(&self, words: &[String]) -> Result<AlignedText, ModelError> {
        self.aligned(EncodeInput::Single(words.to_vec().into()))
    }

    /// Encodes a pair of texts, each token with its bytes in its text.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode_aligned(&self, first: &str, second: &str) -> Result<AlignedText, ModelError> {
        self.aligned((self.shortened(first)?, self.shortened(second)?).into())
    }

    fn aligned(&self, input: EncodeInput<'_>) -> Result<AlignedText, ModelError> {
        let encoding = self.inner.encode(input, true).map_err(|e| self.refuse(&e))?;
        let texts = encoding.get_sequence_ids();
        let tokens = encoding.get_word_ids().iter().zip(encoding.get_offsets()).zip(texts);
        let origins = tokens.map(|((word, (start, end)), text)| {
            Some(TokenOrigin {
                text: text?,
                word: (*word)? as usize,
                bytes: *start..*end,
            })
        });
        Ok(AlignedText {
            origins: origins.collect(),
            encoded: encoded(&encoding),
        })
    }

    /// Ids of one text, untouched by the longest input; `special` adds what the tokenizer puts around a text. A rendered chat
    /// has that already.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode_whole(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        Ok(self.whole(text, special)?.get_ids().to_vec())
    }

    /// The ids of one text as [`encode_whole`](Self::encode_whole) has them, without what is put around a text, each with its bytes
    /// in the text.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode_ranges(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, ModelError> {
        let encoding = self.whole(text, false)?;
        let ranges = encoding.get_offsets().iter().map(|(start, end)| *start..*end);
        Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
    }

    fn whole(&self, text: &str, special: bool) -> Result<Encoding, ModelError> {
        let mut whole = self.inner.clone();
        let encoding = whole.with_truncation(None).and_then(|t| t.encode(text, special));
        encoding.map_err(|e| self.refuse(&e))
    }

    /// The text of ids, without special tokens.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(ids, true).map_err(|e| self.refuse(&e))
    }

    /// A text that grows token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            ids: Vec::new(),
            given: 0,
        }
    }

    fn refuse(&self, error: &tokenizers::Error) -> ModelError {
        refusal(&self.path, error)
    }

    /// Id of a token, if the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of the special tokens, in order.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The tokenizer of a `tokenizer.json`.
fn published(path: &Path) -> Result<Tokenizer, ModelError> {
    let bytes = read_file(path)?;
    // The tokenizer library panics inside an object that is cut off, and at a number beyond its range.
    check_unique(&bytes).map_err(|source| StoreError::Json {
        path: path.to_owned(),
        source,
    })?;
    tokenizer_parts::check(&bytes).map_err(|error| refusal(path, &error.into()))?;
    Tokenizer::from_bytes(&bytes).map_err(|error| refusal(path, &error))
}

fn refusal(path: &Path, error: &tokenizers::Error) -> ModelError {
    ModelError::Tokenizer {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn encoded(encoding: &Encoding) -> Encoded {
    Encoded {
        ids: encoding.get_ids().to_vec(),
        type_ids: encoding.get_type_ids().to_vec(),
        truncated: !encoding.get_overflowing().is_empty(),
    }
}

/// A text that grows token by token: what each token adds to it.
#[derive(Clone, Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t TextTokenizer,
    ids: Vec<u32>,
    /// Bytes of the text that were given already.
    given: usize,
}

impl TextStream<'_> {
    /// What a token adds; nothing while a character is not complete.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        self.given = text.len();
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_the_library_panics_at_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for json in ["{\"model\": {", "{\"model\": {\"dropout\": 1e999}}"] {
            fs::write(dir.path().join("tokenizer.json"), json).unwrap();
            let refused = TextTokenizer::load(dir.path(), 8).map(drop);
            assert!(
                matches!(refused, Err(ModelError::Store(StoreError::Json { .. }))),
                "{json}: {refused:?}"
            );
        }
    }

    /// A byte-level vocabulary: one token a byte.
    fn bytes() -> TextTokenizer {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut vocab: Vec<char> = bytes.into_iter().collect();
        vocab.sort_unstable();
        let vocab: serde_json::Map<String, serde_json::Value> = (0..)
            .zip(vocab)
            .map(|(id, c)| (c.to_string(), serde_json::Value::from(id)))
            .collect();
        let level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        let file = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "truncation": null,
            "padding": null, "pre_tokenizer": level, "decoder": level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        TextTokenizer::load(dir.path(), 4).unwrap()
    }

    #[test]
    fn a_stream_gives_whole_characters_and_all_of_the_text() {
        let tokenizer = bytes();
        let text = "a déjà vu";
        let ids = tokenizer.encode_whole(text, true).unwrap();
        assert_eq!(ids.len(), text.len());
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces[2..5], ["d", "", "é"]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}
