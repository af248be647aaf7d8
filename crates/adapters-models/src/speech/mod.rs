//! Sounds for models that read them. For wav2vec 2.0 the samples of WAV files are normalized; for Whisper they become log-mel
//! spectrograms, as the published `preprocessor_config.json` of
//! Whisper requires, and the tokens that a text begins with say its language and that it has no timestamps.

mod languages;
#[cfg(feature = "audio")]
mod log_mel;
mod prompt;
#[cfg(feature = "audio")]
mod wav;
mod waveform;

#[cfg(feature = "audio")]
pub use log_mel::LogMel;
pub use prompt::SpeechPrompt;
#[cfg(feature = "audio")]
pub use wav::read_wav;
pub use waveform::Waveforms;
