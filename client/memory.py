"""Settings of a process that opens and sends many images."""

from __future__ import annotations

# Below DEFAULT_MMAP_THRESHOLD_MAX of glibc, 32 MiB, above which glibc adapts nothing.
_LARGE_BLOCK = 31 << 20
# Blocks of 16 MiB each (Pillow's documentation, "Block allocator").
_PILLOW_BLOCKS = 8


def keep_freed_memory() -> None:
    """Keep the memory that one image or request frees for the next one, in this process.

    Without this, glibc and Pillow return it to the kernel, which clears the pages again for the
    next image. This changes the whole process, so that commands call it, and the library does not.

    Pillow then keeps 128 MiB at most, which saves up to a third of the time of a large image. A
    request copies its tensor four times, which glibc's part makes up to 2 ms faster: once a process
    has freed a large block, the thresholds of glibc rise to its size and to twice its size
    (mallopt(3), "dynamic mmap threshold"). The block is never written to, so that it costs no
    memory.
    """
    from PIL import Image

    Image.core.set_blocks_max(_PILLOW_BLOCKS)  # type: ignore[attr-defined]
    bytes(_LARGE_BLOCK)
