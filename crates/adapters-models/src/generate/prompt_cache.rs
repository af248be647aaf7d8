//! What was computed of a text, kept for a longer one.

use std::fmt;
use std::mem;

use adapters_adapted::Adapted;
use adapters_core::{Causality, Ctx};

use crate::cache::KeyValueCache;
use crate::model::Model;
use crate::transformer::CausalLm;

/// Keys and values of a text that was continued, so that a prompt that begins like it is computed from there on only. The
/// adapters do not change meanwhile, which the borrow sees to.
pub struct PromptCache<'m> {
    pub(super) adapted: &'m Adapted<Model>,
    tokens: Vec<u32>,
    cache: KeyValueCache,
    reused: usize,
}

impl<'m> PromptCache<'m> {
    /// Nothing yet, for this model and its active adapters.
    pub fn new(adapted: &'m Adapted<Model>) -> Self {
        Self {
            adapted,
            tokens: Vec::new(),
            cache: KeyValueCache::new(),
            reused: 0,
        }
    }

    /// How many tokens of the last prompt were not computed again. None are where an adapter reads what comes later, or where
    /// the prompt ends ([`Causality`]).
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// The cache of what a single prompt has in common with the text that was kept; at least the last token is computed, for the
    /// scores after it. Nothing is kept until [`put`](Self::put).
    pub(super) fn take(&mut self, lm: &dyn CausalLm, prompts: &[&[u32]]) -> KeyValueCache {
        let (tokens, mut cache) = (mem::take(&mut self.tokens), mem::take(&mut self.cache));
        self.reused = match prompts {
            [prompt] if Ctx::new(&self.adapted.set).causality() == Causality::Causal => {
                let same = prompt.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
                same.min(prompt.len() - 1)
            }
            _ => 0,
        };
        let columns = cache.columns();
        cache.truncate(self.reused);
        if self.reused == 0 || !lm.keeps(cache.columns(), columns) {
            self.reused = 0;
            return KeyValueCache::new();
        }
        cache
    }

    /// Keeps the cache of a prompt and what it grew by.
    pub(super) fn put(&mut self, cache: KeyValueCache, prompt: &[u32], new: &[u32]) {
        let text = prompt.iter().chain(new).copied();
        // The last token was not read.
        self.tokens = text.take(cache.text()).collect();
        self.cache = cache;
    }
}

impl fmt::Debug for PromptCache<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptCache")
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}
