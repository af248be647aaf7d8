//! Sounds for models that read them. For wav2vec 2.0 the samples of WAV files are normalized; for Whisper they become log-mel
//! spectrograms, as the published `preprocessor_config.json` of
//! Whisper requires, and the tokens that a text begins with say its language and that it has no timestamps.

mod log_mel;
mod prompt;
mod wav;
mod waveform;

pub use log_mel::LogMel;
pub use prompt::SpeechPrompt;
pub use wav::read_wav;
pub use waveform::Waveforms;
