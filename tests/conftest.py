"""A strict world for all tests: no silent broadcast of ranks, eight virtual devices."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("MPLBACKEND", "agg")

import chex
import jax
import pytest

collect_ignore = ["run_to_resume.py"]  # A program.

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _fresh_trace_counters():
    """Chex counts traces by function name, over the whole process."""
    chex.clear_trace_counter()
