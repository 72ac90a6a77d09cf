//! Draws at random, without leaving anything out.

use rand::{rngs::StdRng, seq::SliceRandom as _};

/// Draws each of the values once before it draws any of them again.
pub struct Shuffled<T: 'static> {
    values: &'static [T],
    rest: Vec<T>,
}

impl<T: Copy> Shuffled<T> {
    pub fn of(values: &'static [T]) -> Self {
        Self { values, rest: Vec::new() }
    }

    pub fn draw(&mut self, random: &mut StdRng) -> T {
        if self.rest.is_empty() {
            self.rest.extend(self.values);
            self.rest.shuffle(random);
        }
        self.rest.pop().unwrap()
    }
}
