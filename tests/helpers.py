"""What tests share with the process that they run in: how it compiles, and how much of its memory programs take."""

import ctypes
import gc
import os
import sys

import jax
import psutil

# Options of the compiler for laws that machine code of any quality keeps: it is made in a third of the time.
ROUGHLY: dict[str, bool | int] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    ROUGHLY["xla_cpu_use_fusion_emitters"] = False  # Of which later ones have no choice.


def flags_but_for_devices() -> str:
    """How this process compiles, for one that it starts, which may have other devices."""
    return " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)


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
