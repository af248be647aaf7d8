//! Height and width of images and patches, which a configuration gives as one number or as a pair.

use std::fmt::{self, Display, Formatter};
use std::ops::Div;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// Height and width in pixels: `16` and `[16, 16]` in a file are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Pixels of a column.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
}

impl ImageSize {
    /// Of a square.
    pub const fn square(side: usize) -> Self {
        Self {
            height: side,
            width: side,
        }
    }

    /// Whether both sides are equal.
    pub const fn is_square(self) -> bool {
        self.height == self.width
    }
}

impl Display for ImageSize {
    /// As in a file: one number if both sides are equal.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.is_square() {
            true => write!(f, "{}", self.height),
            false => write!(f, "[{}, {}]", self.height, self.width),
        }
    }
}

impl Div for ImageSize {
    type Output = [usize; 2];

    /// Rows and columns of whole patches of a size above zero.
    fn div(self, patch: Self) -> [usize; 2] {
        [self.height / patch.height, self.width / patch.width]
    }
}

/// Reads the field `image_size`.
///
/// # Errors
///
/// For anything but a number or two of them.
pub(crate) fn image_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ImageSize, D::Error> {
    deserializer.deserialize_any(Sides("image_size"))
}

/// Reads the field `patch_size`.
///
/// # Errors
///
/// For anything but a number or two of them.
pub(crate) fn patch_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ImageSize, D::Error> {
    deserializer.deserialize_any(Sides("patch_size"))
}

/// Reads the field of this name.
struct Sides(&'static str);

impl<'de> Visitor<'de> for Sides {
    type Value = ImageSize;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "a number of pixels or [height, width] for `{}`", self.0)
    }

    fn visit_u64<E: Error>(self, side: u64) -> Result<ImageSize, E> {
        let side = usize::try_from(side).map_err(|_| E::custom(format!("`{}` is {side}", self.0)))?;
        Ok(ImageSize::square(side))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<ImageSize, A::Error> {
        let mut found = Vec::new();
        while let Some(side) = sides.next_element::<usize>()? {
            found.push(side);
        }
        match *found {
            [height, width] => Ok(ImageSize { height, width }),
            _ => Err(A::Error::invalid_length(found.len(), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Fields {
        #[serde(deserialize_with = "image_size")]
        image_size: ImageSize,
    }

    fn read(value: Value) -> Result<ImageSize, String> {
        serde_json::from_value::<Fields>(json!({"image_size": value}))
            .map(|fields| fields.image_size)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_and_a_pair_are_read() {
        assert_eq!(read(json!(24)), Ok(ImageSize::square(24)));
        let pair = ImageSize { height: 24, width: 32 };
        assert_eq!(read(json!([24, 32])), Ok(pair));
        assert_eq!(
            [pair.to_string(), ImageSize::square(24).to_string()],
            ["[24, 32]", "24"]
        );
        assert_eq!(pair / ImageSize { height: 10, width: 8 }, [2, 4]);
    }

    #[test]
    fn anything_else_is_refused_by_the_name_of_the_field() {
        for value in [
            json!([24]),
            json!([1, 2, 3]),
            json!("24"),
            json!({"height": 24, "width": 24}),
            json!(null),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains("[height, width] for `image_size`"), "{error}");
        }
    }
}
