//! The memory that argon2 works in, reused from run to run.
//!
//! By default argon2 needs 19 MiB for each run. With glibc, memory that is allocated anew for each run stays resident:
//! after the first allocation of that size has been freed, malloc serves the next ones from the arena of the calling
//! thread, and arenas do not return memory to the operating system. 300 creations, spread over many blocking threads,
//! left 850 MB.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
};

use argon2::Block;
use zeroize::Zeroize as _;

/// A capacity in blocks that glibc always maps: more than 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Freeing such an
/// allocation returns it to the operating system. Capacity that is never written to takes no memory.
const ALWAYS_MAPPED: usize = 33 * 1024;

/// A pool of buffers of one size. It grows to as many as were ever in use at once, and never shrinks.
pub(super) struct HashMemory {
    /// Blocks per buffer, 1 KiB each.
    blocks: usize,
    free: Mutex<Vec<Vec<Block>>>,
}

/// The memory could not be allocated.
#[derive(Debug)]
pub(super) struct OutOfMemory;

/// A buffer in use. It is wiped on drop.
pub(super) struct Buffer<'a> {
    memory: &'a HashMemory,
    buffer: Vec<Block>,
    blocks: usize,
}

impl HashMemory {
    /// Creates an empty pool for buffers of `blocks` blocks, 1 KiB each.
    pub(super) fn new(blocks: usize) -> Self {
        Self { blocks, free: Mutex::default() }
    }

    /// Returns a zeroed buffer of `blocks` blocks. A buffer larger than those of the pool is freed on drop.
    ///
    /// # Errors
    ///
    /// There is not enough memory for a new buffer.
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
        // Nothing panics while a push or pop is half done, so poisoning is ignored.
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

/// Does not show the content of the blocks.
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
    fn buffers_are_wiped_and_reused() {
        let memory = HashMemory::new(8);
        assert_eq!(memory.free().len(), 0, "buffers are allocated at first use");
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
    fn a_larger_buffer_is_not_reused() {
        let memory = HashMemory::new(8);
        let mut large = memory.buffer(9).unwrap();
        assert_eq!(large.len(), 9);
        fill(&mut large);
        drop(large);
        assert_eq!(memory.free().len(), 0);
    }

    #[test]
    fn a_buffer_is_wiped_and_reused_after_a_panic() {
        let memory = HashMemory::new(8);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            fill(&mut memory.buffer(8).unwrap());
            panic!("while hashing");
        }));
        assert!(panic.is_err());
        assert!(is_zero(&memory.free()[0]));
    }

    #[test]
    fn too_large_a_buffer_is_an_error() {
        assert!(HashMemory::new(8).buffer(usize::MAX / 2_048).is_err());
    }

    /// With glibc, and without `ALWAYS_MAPPED`, more than a gigabyte would stay resident.
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
        assert!(grown < 200, "{grown} MiB were not returned");
    }
}
