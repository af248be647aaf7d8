//! Speech for models that read it: WAV files become log-mel spectrograms, as the published `preprocessor_config.json` of
//! Whisper requires, and the tokens that a text begins with say its language and that it has no timestamps.

mod log_mel;
mod prompt;
mod wav;

pub use log_mel::LogMel;
pub use prompt::SpeechPrompt;
pub use wav::read_wav;
