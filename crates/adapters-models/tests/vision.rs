//! Images against `transformers`: `vision/make.py DIRECTORY` made the images and `expected.safetensors`, with
//! transformers 4.57.6 and Pillow 13.0.0.

use std::fs;
use std::path::{Path, PathBuf};

use adapters_models::ModelError;
use adapters_models::vision::{ImageProcessor, ImageSource, VisionError};
use adapters_store::{read_json, read_safetensors};
use burn::tensor::Device;
use serde_json::{Map, Value, json};

/// JPEG decoders differ in the last bits of the cosine transform: levels of 255 by which a pixel may differ.
const JPEG_LEVELS: f32 = 3.0;
/// They differ more where the colors are stored with half the resolution and each enlarges them in its own way.
const SUBSAMPLED_JPEG_LEVELS: f32 = 7.0;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vision")
}

fn processor(config: Value) -> Result<ImageProcessor, VisionError> {
    let Value::Object(config) = config else {
        panic!("a configuration is an object")
    };
    ImageProcessor::from_config(Path::new("preprocessor_config.json"), &config)
}

fn raw() -> ImageProcessor {
    processor(json!({"do_resize": false, "do_rescale": false, "do_normalize": false})).unwrap()
}

fn message(config: Value) -> String {
    processor(config).unwrap_err().to_string()
}

fn file(name: &str) -> ImageSource {
    ImageSource::File(fixtures().join(name))
}

fn bytes(bytes: Vec<u8>) -> ImageSource {
    ImageSource::Bytes {
        name: "the image".into(),
        bytes: bytes.into(),
    }
}

fn values(processor: &ImageProcessor, images: &[ImageSource]) -> Result<([usize; 4], Vec<f32>), VisionError> {
    let tensor = processor.batch(images, &Device::flex())?;
    Ok((tensor.dims(), tensor.into_data().try_to_vec().unwrap()))
}

fn refusal(image: ImageSource) -> String {
    values(&raw(), &[image]).unwrap_err().to_string()
}

#[test]
fn pixels_are_those_of_transformers() {
    let cases: Map<String, Value> = read_json(&fixtures().join("cases.json")).unwrap();
    let expected = read_safetensors(&fixtures().join("expected.safetensors")).unwrap().0;
    assert_eq!(cases["cases"].as_array().unwrap().len(), expected.len());
    for (key, expected) in expected {
        let (name, image) = key.split_once('/').unwrap();
        let config = &cases["configs"][name];
        let (shape, found) = values(&processor(config.clone()).unwrap(), &[file(image)]).unwrap();
        assert_eq!(shape[1..], expected.shape()[..], "{key}");
        // One level in the units of the result: what rescaling and normalizing make of it.
        let level = match name {
            "older" | "bilinear" | "deit" => 2.0 / 255.0,
            "clip" | "uncropped" => 1.0 / 255.0 / 0.261,
            "bit" => 0.01 / 0.261,
            _ => 1.0,
        };
        let levels = match image {
            "subsampled.jpg" => SUBSAMPLED_JPEG_LEVELS,
            image if image.ends_with(".jpg") => JPEG_LEVELS,
            _ => 0.0,
        };
        for (found, expected) in found.iter().zip(expected.try_to_vec::<f32>().unwrap()) {
            assert!(
                (found - expected).abs() <= levels * level,
                "{key}: {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn a_batch_holds_its_images_in_order() {
    let processor = processor(json!({"size": 6})).unwrap();
    assert_eq!(processor.output_size(), Some([6, 6]));
    let images = ["rgb.png", "gray.png", "alpha.png"].map(file);
    let (shape, batch) = values(&processor, &images).unwrap();
    assert_eq!(shape, [3, 3, 6, 6]);
    let alone = images
        .iter()
        .flat_map(|image| values(&processor, std::slice::from_ref(image)).unwrap().1);
    assert_eq!(batch, alone.collect::<Vec<_>>());
    let in_memory = bytes(fs::read(fixtures().join("rgb.png")).unwrap());
    assert_eq!(values(&processor, &[in_memory]).unwrap().1, batch[..108]);
    assert_eq!(values(&processor, &[]).unwrap().0, [0, 3, 6, 6]);
    let error = values(&raw(), &images).unwrap_err().to_string();
    assert!(
        error.contains("gray.png has 15 x 11 pixels after preprocessing"),
        "{error}"
    );
    assert!(error.contains("the first image of the batch has 17 x 22"), "{error}");
}

#[test]
fn what_is_no_image_is_refused_by_its_name() {
    assert_eq!(
        refusal(ImageSource::File("no/such.png".into())),
        "cannot read no/such.png: there is no such file"
    );
    assert!(refusal(ImageSource::File(fixtures())).starts_with("cannot read "));
    assert_eq!(
        refusal(bytes(b"GIF89a\x01\0".to_vec())),
        "the image is neither a PNG nor a JPEG image"
    );
    assert_eq!(
        refusal(bytes(Vec::new())),
        "the image is neither a PNG nor a JPEG image"
    );
    for name in ["rgb.png", "palette.png", "color.jpg"] {
        let whole = fs::read(fixtures().join(name)).unwrap();
        for end in [9, 40, whole.len() / 2, whole.len() - 40] {
            let message = refusal(bytes(whole[..end].to_vec()));
            assert!(
                message.starts_with("cannot decode the image: "),
                "{name} to {end}: {message}"
            );
        }
    }
}

/// A PNG file that has only a header.
fn header(width: u32, height: u32, bits: u8, color: u8) -> Vec<u8> {
    let mut body = b"IHDR".to_vec();
    body.extend(width.to_be_bytes());
    body.extend(height.to_be_bytes());
    body.extend([bits, color, 0, 0, 0]);
    let crc = body.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    });
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(body);
    file.extend((!crc).to_be_bytes());
    file.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    file
}

#[test]
fn a_huge_image_is_refused_before_it_is_decoded() {
    assert_eq!(
        refusal(bytes(header(100_000, 100_000, 8, 2))),
        "the image: 100000 x 100000 pixels in the file are more than the limit of 89478485"
    );
    let long = processor(json!({"image_processor_type": "BitImageProcessor", "size": 60_000, "do_center_crop": false}));
    let error = values(&long.unwrap(), &[file("alpha.png")]).unwrap_err().to_string();
    assert!(
        error.contains("alpha.png: 93333 x 60000 pixels after resizing are more than"),
        "{error}"
    );
}

#[test]
fn sixteen_bits_of_color_lose_the_low_byte() {
    let pixels: Vec<u16> = vec![0x00ff, 0x8000, 0xfffe, 0x1234, 0x0100, 0xff00];
    let image = image::DynamicImage::ImageRgb16(image::ImageBuffer::from_raw(2, 1, pixels).unwrap());
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let (shape, found) = values(&raw(), &[bytes(file.into_inner())]).unwrap();
    assert_eq!(shape, [1, 3, 1, 2]);
    assert_eq!(found, [0.0, 18.0, 128.0, 1.0, 255.0, 255.0]);

    let gray = image::DynamicImage::ImageLuma16(image::ImageBuffer::from_raw(1, 1, vec![300]).unwrap());
    let mut file = std::io::Cursor::new(Vec::new());
    gray.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let message = refusal(bytes(file.into_inner()));
    assert!(message.contains("gray with 16 bits per pixel"), "{message}");
}

#[test]
fn options_are_checked_by_name() {
    let start = "preprocessor_config.json: ";
    for (config, expected) in [
        (json!({"crop_pct": 0.9}), "option `crop_pct` is not supported"),
        (
            json!({"do_rezise": true}),
            "option `do_rezise` is not supported; did you mean `do_resize`?",
        ),
        (
            json!({"image_processor_type": "VitImageProcessor"}),
            "`image_processor_type` is `VitImageProcessor`; did you mean `ViTImageProcessor`?",
        ),
        (json!({"feature_extractor_type": 3}), "`feature_extractor_type` is `3`"),
        (
            json!({"do_center_crop": true}),
            "`do_center_crop` is true, expected false",
        ),
        (json!({"do_resize": 1}), "`do_resize` is 1, expected true or false"),
        (json!({"resample": 6}), "`resample` is 6, expected 0 (nearest)"),
        (
            json!({"rescale_factor": "x"}),
            "`rescale_factor` is \"x\", expected a number",
        ),
        (json!({"size": 0}), "`size` is 0, expected a number of pixels"),
        (json!({"size": {"height": 4}}), "`size` is {\"height\":4}, expected"),
        (
            json!({"size": {"shortest_edge": 4, "longest_edge": 9}}),
            "`size` is {\"shortest_edge\":4,\"longest_edge\":9}, expected",
        ),
        (
            json!({"image_mean": [0.5]}),
            "`image_mean` is [0.5], expected a number, or one per channel (3)",
        ),
        (
            json!({"image_std": [0.5, 0, 1]}),
            "`image_std` is [0.5,0,1], expected a number above 0",
        ),
    ] {
        let message = message(config);
        assert!(message.starts_with(&format!("{start}{expected}")), "{message}");
    }
    let deit = json!({"image_processor_type": "DeiTImageProcessor", "crop_size": {"shortest_edge": 4}});
    assert!(message(deit).contains("expected a height and a width"));
    // What is off or does not matter is no reason to refuse.
    processor(json!({"do_pad": false, "size_divisor": null, "do_convert_rgb": true, "processor_class": "A"})).unwrap();
    let fast = processor(json!({"image_processor_type": "ViTImageProcessorFast", "size": {"shortest_edge": 8}}));
    assert_eq!(fast.unwrap().output_size(), None);
}

#[test]
fn a_folder_without_the_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(ImageProcessor::read(folder.path()), Err(ModelError::Store(_))));
    fs::write(folder.path().join("preprocessor_config.json"), r#"{"size": 30}"#).unwrap();
    assert_eq!(
        ImageProcessor::read(folder.path()).unwrap().output_size(),
        Some([30, 30])
    );
}
