//! What a trained adapter is used for, and the command that does it.

/// What an adapter of a task is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Usage {
    /// Predictions for texts.
    Text,
    /// Answers to questions from a text.
    Question,
    /// Choices between answers to questions.
    Choice,
    /// Predictions for images.
    Image,
    /// Predictions for sounds.
    Audio,
    /// Writing text.
    Generation,
    /// Training other adapters on top of it.
    Stacking,
}

impl Usage {
    /// Whether the adapter is for predictions of labeled data.
    pub fn predicts(self) -> bool {
        !matches!(self, Self::Generation | Self::Stacking)
    }

    /// The arguments of the command that uses the adapter in the folder `adapter`, with an example `text` where it takes one.
    pub fn command(self, adapter: &str, text: &str) -> String {
        match self {
            Self::Text => format!("predict --adapter {adapter} --text {text}"),
            Self::Question => format!("predict --adapter {adapter} --question QUESTION --text {text}"),
            Self::Choice => format!("predict --adapter {adapter} --question QUESTION --choice {text} --choice {text}"),
            Self::Image => format!("predict --adapter {adapter} --image FILE"),
            Self::Audio => format!("predict --adapter {adapter} --audio FILE"),
            Self::Generation => format!("generate --adapter {adapter} --prompt {text}"),
            Self::Stacking => format!("train RECIPE --set adapter.stack_on={adapter}"),
        }
    }
}
