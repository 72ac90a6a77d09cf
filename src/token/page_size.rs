//! How many tokens a page of a list has.

/// 1 to 200. AIP-158: 0 asks for the default, and what is above the maximum is taken as the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u16);

/// The number is no page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must not be negative; 0 is {default}, more than {max} is {max}", default = PageSize::DEFAULT, max = PageSize::MAX)]
pub struct PageSizeError;

impl PageSize {
    const DEFAULT: u16 = 50;
    const MAX: u16 = 200;

    /// Checks a size as protobuf carries it.
    ///
    /// # Errors
    ///
    /// It is negative.
    pub fn parse(size: i32) -> Result<Self, PageSizeError> {
        match u32::try_from(size) {
            Ok(0) => Ok(Self(Self::DEFAULT)),
            Ok(size) => Ok(Self(u16::try_from(size).unwrap_or(Self::MAX).min(Self::MAX))),
            Err(_) => Err(PageSizeError),
        }
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_default_and_more_than_the_maximum_is_the_maximum() {
        let parse = |size| PageSize::parse(size).map(PageSize::get);
        assert_eq!([1, 200].map(parse), [Ok(1), Ok(200)]);
        assert_eq!([0, 201, 70_000, i32::MAX].map(parse), [Ok(50), Ok(200), Ok(200), Ok(200)]);
        assert_eq!([-1, i32::MIN].map(parse), [Err(PageSizeError); 2]);
        assert_eq!(PageSizeError.to_string(), "must not be negative; 0 is 50, more than 200 is 200");
    }
}
