//! What was computed of a text, kept for a longer one.

use std::fmt;
use std::mem;

use adapters_adapted::Adapted;
use adapters_core::{Causality, Composition, Ctx};

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
    /// How many of the tokens the base alone has computed.
    of_base: usize,
}

impl<'m> PromptCache<'m> {
    /// Nothing yet, for this model and its active adapters.
    pub fn new(adapted: &'m Adapted<Model>) -> Self {
        Self {
            adapted,
            tokens: Vec::new(),
            cache: KeyValueCache::new(),
            reused: 0,
            of_base: 0,
        }
    }

    /// Goes on with other adapters of the same base, which need to have the same weights. What the base alone has computed
    /// is kept: it serves the base without adapters, and an adapter that acts from the tokens on that invoke it
    /// ([`BeginsWhereInvoked`](adapters_core::BeginsWhereInvoked)).
    #[must_use]
    pub fn with_adapters_of(mut self, adapted: &Adapted<Model>) -> PromptCache<'_> {
        self.cache.truncate(self.of_base);
        self.tokens.truncate(self.of_base);
        PromptCache {
            adapted,
            tokens: self.tokens,
            cache: self.cache,
            reused: 0,
            of_base: self.of_base,
        }
    }

    /// How many tokens of the last prompt were not computed again. None are where an adapter reads what comes later, or where
    /// the prompt ends ([`Causality`]).
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// How many tokens of a prompt the base alone computes, where the others depend on no later ones; `None` where they may.
    fn computed_by_base(&self, prompt: &[u32]) -> Option<usize> {
        let set = &self.adapted.set;
        let Some(active) = set.active() else {
            return Some(usize::MAX);
        };
        if let Composition::Adapter(name) = active.composition()
            && let Some(adapter) = set.get(name)
            && let Some(invoked) = adapter.method().capabilities().invoked
        {
            return Some(invoked.begins(prompt));
        }
        (Ctx::new(set).causality() == Causality::Causal).then_some(0)
    }

    /// The cache of what a single prompt has in common with the text that was kept; at least the last token is computed, for the
    /// scores after it. Nothing is kept until [`put`](Self::put).
    pub(super) fn take(&mut self, lm: &dyn CausalLm, prompts: &[&[u32]]) -> KeyValueCache {
        let (tokens, mut cache) = (mem::take(&mut self.tokens), mem::take(&mut self.cache));
        let of_base = match prompts {
            [prompt] => self.computed_by_base(prompt).map(|of_base| (prompt, of_base)),
            _ => None,
        };
        self.reused = match of_base {
            Some((prompt, of_base)) => {
                let same = prompt.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
                // What an adapter has computed is the same if it begins at the same token.
                let kept = if of_base == self.of_base {
                    same
                } else {
                    of_base.min(self.of_base)
                };
                same.min(kept).min(prompt.len() - 1)
            }
            None => 0,
        };
        self.of_base = of_base.map_or(0, |(_, of_base)| of_base);
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
