//! Scores of distances between tokens, in place of positions in the embeddings: the `relative_key` and `relative_key_query` of BERT and
//! its relatives.
//!
//! Papers: *Self-Attention with Relative Position Representations*, Shaw et al., 2018, <https://arxiv.org/abs/1803.02155>;
//! *Improve Transformer Models with Better Relative Position Embeddings*, Huang et al., 2020, <https://arxiv.org/abs/2009.13658>.

use crate::modeling::*;

/// Where a model knows from in which order its tokens stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum PositionEmbeddingType {
    /// Positions are added to the embeddings.
    #[default]
    Absolute,
    /// Queries have scores with distances.
    RelativeKey,
    /// So have keys.
    RelativeKeyQuery,
}

impl TryFrom<String> for PositionEmbeddingType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Ok(match &*name {
            "absolute" => Self::Absolute,
            "relative_key" => Self::RelativeKey,
            "relative_key_query" => Self::RelativeKeyQuery,
            _ => {
                return Err(format!(
                    "expected `position_embedding_type` to be `absolute`, `relative_key` or `relative_key_query`, found `{name}`"
                ));
            }
        })
    }
}

/// The numbers of [`DistanceScores`].
#[derive(Clone, Copy, Debug)]
pub struct DistanceOptions {
    /// Longest text in tokens.
    pub(crate) positions: usize,
    /// Whether keys have scores too.
    pub(crate) of_keys: bool,
    /// Whether the scores have the factor of the others.
    pub(crate) scaled: bool,
}

impl PositionEmbeddingType {
    /// The scores of a model for texts of at most `positions` tokens, if it has any.
    pub(crate) fn distances(self, positions: usize) -> Option<DistanceOptions> {
        (self != Self::Absolute).then_some(DistanceOptions {
            positions,
            of_keys: self == Self::RelativeKeyQuery,
            scaled: true,
        })
    }
}

/// A vector of each distance, which queries, and keys where they do, have a score with.
#[derive(Module, Sites, Debug)]
pub(crate) struct DistanceScores {
    /// `[2 positions - 1, d_head]`
    table: Embedding,
    pub(crate) of_keys: bool,
    /// The factor of the scores.
    scale: f64,
}

impl DistanceScores {
    /// The table of this name; `scale` is the factor of the other scores.
    pub(crate) fn build(
        name: &str,
        options: DistanceOptions,
        (d_head, scale): (usize, f64),
        at: &mut Scope<'_>,
    ) -> Self {
        Self {
            table: at.embedding(name, [2 * options.positions - 1, d_head]),
            of_keys: options.of_keys,
            scale: if options.scaled { scale } else { 1.0 },
        }
    }

    /// `scale (q d_ij + k d_ij)` for the query `i` and the key `j`. The first query stands at `past`; keys
    /// that adapters put in front take positions, as in the reference. What is farther than the table reaches has its last row.
    ///
    /// # Shapes
    ///
    /// `query [batch, heads, seq, d_head]`, `key [batch, heads, keys, d_head]` to `[batch, heads, seq, keys]`
    pub(crate) fn forward(&self, query: &Tensor<4>, key: &Tensor<4>, past: usize) -> Tensor<4> {
        let ([batch, heads, seq, _], keys) = (query.dims(), key.dims()[2]);
        let table = self.table.weight.val();
        let rows = table.dims()[0] as i64;
        let row = |query: usize, key: usize| {
            let distance = (past + query) as i64 - key as i64;
            (distance + rows / 2).clamp(0, rows - 1)
        };
        let (first, last) = (row(0, keys - 1), row(seq - 1, 0));
        let index: Vec<i64> = (0..seq)
            .flat_map(|query| (0..keys).map(move |key| row(query, key) - first))
            .collect();
        let index = Tensor::<2, Int>::from_data(TensorData::new(index, [seq, keys]), &query.device());
        let distances = table
            .slice_dim(0, first as usize..last as usize + 1)
            .transpose()
            .unsqueeze::<4>();
        let gathered = |content: &Tensor<4>, index: Tensor<2, Int>| {
            let index = index.unsqueeze::<4>().repeat(&[batch, heads, 1, 1]);
            content.clone().matmul(distances.clone()).gather(3, index)
        };
        let of_queries = gathered(query, index.clone());
        let scores = match self.of_keys {
            true => of_queries + gathered(key, index.transpose()).swap_dims(2, 3),
            false => of_queries,
        };
        scores * self.scale
    }
}
