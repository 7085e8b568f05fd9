"""What tests share with the process that they run in: how much of its memory is that of compiled programs."""

import ctypes
import gc
import sys

import jax
import psutil

ROOM, GROWTH = 1_000_000_000, 200_000_000
"""Bytes of a process beyond which it lets go of what it has compiled, and by which it must have grown since."""


class Programs:
    """Those that JAX keeps; `generation` is how often they were let go of."""

    generation = 0
    _kept = 0

    @classmethod
    def let_go_if_large(cls) -> None:
        """So that a worker does not grow to several gigabytes."""
        if resident() > max(ROOM, cls._kept + GROWTH):
            jax.clear_caches()
            gc.collect()
            if sys.platform == "linux":
                ctypes.CDLL(None).malloc_trim(0)  # Else freed memory stays with the process.
            cls.generation, cls._kept = cls.generation + 1, resident()


def resident() -> int:
    """Bytes of memory that the process holds."""
    return psutil.Process().memory_info().rss
