//! The number of tokens on one page of a list.

/// A page size of 1 to 200. As AIP-158 asks, 0 means the default, and larger sizes are lowered to the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u16);

/// The page size is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must not be negative; 0 is {default}, more than {max} is {max}",
    default = PageSize::DEFAULT,
    max = PageSize::MAX
)]
pub struct PageSizeError;

impl PageSize {
    /// A page of one.
    pub(crate) const ONE: Self = Self(1);
    const DEFAULT: u16 = 50;
    const MAX: u16 = 200;

    /// Parses the `page_size` of a request.
    ///
    /// # Errors
    ///
    /// The size is negative.
    pub fn parse(size: i32) -> Result<Self, PageSizeError> {
        match u32::try_from(size) {
            Ok(0) => Ok(Self::default()),
            Ok(size) => Ok(Self(u16::try_from(size).unwrap_or(Self::MAX).min(Self::MAX))),
            Err(_) => Err(PageSizeError),
        }
    }

    /// Returns the size.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self(Self::DEFAULT)
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
