//! What an adapter's layer does at the site of a frozen layer, as it states it itself.

/// What a layer does at the site of a frozen layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Leaves the frozen layer and its input alone, and adds to what comes out (or, with a [`Finisher`](crate::Finisher), keeps in `delta`
    /// what that reads).
    Adds(Source),
    /// Changes the frozen layer, its input, or its output as a whole, and adds nothing.
    Changes,
    /// Changes the frozen layer, and adds to what comes out.
    ChangesAndAdds(Source),
}

/// What a layer computes its addition from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The input of the frozen layer: after another adapter the two additions are summed.
    Input,
    /// In a `Stack`, the addition of the adapter before it; the input of the frozen layer where there is none. Follows the
    /// reference. `width` is the number of features it must have, `None` where no addition at this site fits.
    Previous {
        /// Features of the addition it reads.
        width: Option<usize>,
    },
}

impl Effect {
    /// Whether it changes a frozen layer or what goes into it.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Adds(_))
    }

    /// What the addition is computed from; `None` for a layer that adds nothing.
    pub fn source(self) -> Option<Source> {
        match self {
            Self::Adds(source) | Self::ChangesAndAdds(source) => Some(source),
            Self::Changes => None,
        }
    }
}
