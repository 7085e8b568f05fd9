"""A strict world for all tests: no silent broadcast of ranks, eight virtual devices."""

import gc
import os

# Programs are compiled in one part each: all cores are at work on tests anyhow.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_cpu_parallel_codegen_split_count=1")
os.environ.setdefault("MPLBACKEND", "agg")

import chex
import jax
import pytest

collect_ignore = ["run_to_resume.py", "mutations.py"]  # Programs.

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(100_000, 50, 100)  # Traces make many objects, and few of them in cycles.


@pytest.fixture(autouse=True)
def _fresh_trace_counters():
    """Chex counts traces by function name, over the whole process."""
    chex.clear_trace_counter()
