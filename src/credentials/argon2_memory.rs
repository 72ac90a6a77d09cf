//! The memory that argon2 works in.
//!
//! argon2 needs 19 MiB for each run by default. Allocated anew for each run, on the many threads that blocking work is spread
//! over, it stays with glibc: once blocks of that size have been freed, malloc takes them from an arena of the thread
//! instead of mapping them, and an arena does not give them back. 300 creations left 850 MB.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
};

use argon2::Block;
use zeroize::Zeroize as _;

/// glibc maps every allocation of more than 32 MiB by itself (mallopt(3), M_MMAP_THRESHOLD), so that freeing it returns it
/// to the operating system. What is reserved but not written to takes no memory.
const ALWAYS_MAPPED: usize = 33 * 1024;

/// Buffers of one size, as many as were ever in use at once; they are kept for the next runs.
pub(super) struct HashMemory {
    /// The size of a buffer.
    blocks: usize,
    free: Mutex<Vec<Vec<Block>>>,
}

/// The operating system did not give the memory.
#[derive(Debug)]
pub(super) struct OutOfMemory;

/// A buffer in use; it is wiped when dropped.
pub(super) struct Buffer<'a> {
    memory: &'a HashMemory,
    buffer: Vec<Block>,
    blocks: usize,
}

impl HashMemory {
    /// No buffers yet: they are allocated at first use, of `blocks` blocks (1 KiB each).
    pub(super) fn new(blocks: usize) -> Self {
        Self { blocks, free: Mutex::default() }
    }

    /// Returns a buffer of `blocks` blocks, all zero. A larger one than the others is not kept.
    ///
    /// # Errors
    ///
    /// It would have to be allocated, and there is not enough memory.
    pub(super) fn buffer(&self, blocks: usize) -> Result<Buffer<'_>, OutOfMemory> {
        let free = if self.keeps(blocks) { self.free().pop() } else { None };
        let buffer = match free {
            Some(free) => free,
            None if self.keeps(blocks) => allocate(self.blocks, self.blocks)?,
            None => allocate(blocks, blocks.max(ALWAYS_MAPPED))?,
        };
        Ok(Buffer { memory: self, buffer, blocks })
    }

    fn keeps(&self, blocks: usize) -> bool {
        blocks <= self.blocks
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        // A vector is never left half-changed, so poisoning is ignored.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn allocate(blocks: usize, capacity: usize) -> Result<Vec<Block>, OutOfMemory> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(capacity).map_err(|_| OutOfMemory)?;
    buffer.resize(blocks, Block::new());
    Ok(buffer)
}

impl Deref for Buffer<'_> {
    type Target = [Block];

    fn deref(&self) -> &[Block] {
        &self.buffer[..self.blocks]
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [Block] {
        &mut self.buffer[..self.blocks]
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        for block in self.iter_mut() {
            block.zeroize();
        }
        if self.memory.keeps(self.blocks) {
            self.memory.free().push(std::mem::take(&mut self.buffer));
        }
    }
}

/// Does not show what the blocks hold.
impl fmt::Debug for HashMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashMemory").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_zero(blocks: &[Block]) -> bool {
        blocks.iter().all(|block| block.as_ref().iter().all(|word| *word == 0))
    }

    fn fill(buffer: &mut Buffer<'_>) {
        for block in buffer.iter_mut() {
            block.as_mut().fill(7);
        }
    }

    #[test]
    fn buffers_are_kept_and_wiped() {
        let memory = HashMemory::new(8);
        assert_eq!(memory.free().len(), 0, "allocated at first use");
        for _ in 0..3 {
            let (mut one, mut two) = (memory.buffer(8).unwrap(), memory.buffer(4).unwrap());
            assert_eq!((one.len(), two.len()), (8, 4));
            assert!(is_zero(&one) && is_zero(&two));
            fill(&mut one);
            fill(&mut two);
        }
        let free = memory.free();
        assert_eq!(free.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8]);
        assert!(free.iter().all(|buffer| is_zero(buffer)));
    }

    #[test]
    fn a_larger_buffer_is_not_kept() {
        let memory = HashMemory::new(8);
        let mut large = memory.buffer(9).unwrap();
        assert_eq!(large.len(), 9);
        fill(&mut large);
        drop(large);
        assert_eq!(memory.free().len(), 0);
    }

    #[test]
    fn a_buffer_is_kept_and_wiped_after_a_panic() {
        let memory = HashMemory::new(8);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            fill(&mut memory.buffer(8).unwrap());
            panic!("while hashing");
        }));
        assert!(panic.is_err());
        assert!(is_zero(&memory.free()[0]));
    }

    #[test]
    fn more_memory_than_there_is_is_an_error() {
        assert!(HashMemory::new(8).buffer(usize::MAX / 2_048).is_err());
    }

    /// Without `ALWAYS_MAPPED` this keeps more than a gigabyte with glibc.
    #[test]
    fn larger_buffers_are_returned_to_the_operating_system() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1_024
        };
        let memory = HashMemory::new(8);
        let before = resident();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| fill(&mut memory.buffer(24 * 1_024).unwrap()));
                }
            });
        }
        // Other tests run in this process too.
        let grown = resident().saturating_sub(before);
        assert!(grown < 200, "{grown} MiB are kept");
    }
}
