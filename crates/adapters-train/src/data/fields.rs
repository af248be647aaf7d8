//! What the fields of data files are called, and the classes of a run.

use serde::{Deserialize, Serialize};

/// Which fields of a record (or columns of a table) hold what.
///
/// | Name | Default | Purpose |
/// |---|---|---|
/// | `text` | `"text"` | the text |
/// | `image` | `"image"` | the image: a path from the folder of the file, or a data URI |
/// | `audio` | `"audio"` | the sound: the path of a .wav file from the folder of the file |
/// | `text_pair` | none | the second text, for tasks on pairs |
/// | `label` | `"label"` | the class, the number, the labels or the right choice |
/// | `words` | `"words"` | the words of a sentence, for tagging |
/// | `tags` | `"tags"` | the tag of each word |
/// | `question` | `"question"` | the question, for question answering and multiple choice |
/// | `context` | `"context"` | the text with the answer; for multiple choice a text before the question, if present |
/// | `answer` | `"answer"` | the answer, as it stands in the context; empty where there is none |
/// | `answer_start` | `"answer_start"` | character of the context at which the answer begins, if present |
/// | `choices` | `"choices"` | the texts to choose from |
/// | `task` | none | the number of the task, from 0, for adapters that know tasks (Poly, multitask prompt tuning) |
/// | `prompt` | `"prompt"` | the text that a completion follows |
/// | `completion` | `"completion"` | the completion |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fields {
    /// The field with the text.
    pub text: String,
    /// The field with the path or data URI of an image.
    pub image: String,
    /// The field with the path of a sound.
    pub audio: String,
    /// The field with the second text; `None` for tasks on single texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// The field with the label.
    pub label: String,
    /// The field with the words of a sentence.
    pub words: String,
    /// The field with their tags.
    pub tags: String,
    /// The field with the question.
    pub question: String,
    /// The field with the text that has the answer.
    pub context: String,
    /// The field with the answer.
    pub answer: String,
    /// The field with the character at which the answer begins.
    pub answer_start: String,
    /// The field with the texts to choose from.
    pub choices: String,
    /// The field with the prompt.
    pub prompt: String,
    /// The field with the completion.
    pub completion: String,
    /// The field with the number of the task that adapters are told; `None` to tell them none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            text: "text".into(),
            image: "image".into(),
            audio: "audio".into(),
            text_pair: None,
            label: "label".into(),
            words: "words".into(),
            tags: "tags".into(),
            question: "question".into(),
            context: "context".into(),
            answer: "answer".into(),
            answer_start: "answer_start".into(),
            choices: "choices".into(),
            prompt: "prompt".into(),
            completion: "completion".into(),
            task: None,
        }
    }
}

/// The classes of a run: in a configuration file, a number or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of labels, or a list of their names")]
pub enum Labels {
    /// So many classes; files give them as integers from 0.
    Count(usize),
    /// The classes by name; files give them by name, or as integers from 0 in this order.
    Names(Vec<String>),
}

impl Labels {
    /// How many classes there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Names(names) => names.len(),
        }
    }

    /// The names of all classes.
    pub fn names(&self) -> Vec<String> {
        (0..self.count()).map(|class| self.name(class)).collect()
    }

    /// What a class is called: its name, or its number where it has none.
    pub fn name(&self, class: usize) -> String {
        match self {
            Self::Names(names) if class < names.len() => names[class].clone(),
            _ => class.to_string(),
        }
    }
}
