"""A strict world for all tests: no silent broadcast of ranks, eight virtual devices; and what they cost."""

import collections
import gc
import os
import resource
import sys

import chex
import jax
import pytest
from helpers import ROUGHLY, Programs

# Programs are those of users up to the last stage of compiling, LLVM's, which does not optimize them, and makes one
# part of each: all cores are at work on tests anyhow. Flags that are set already are kept.
FLAGS = {
    "xla_force_host_platform_device_count": 8,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_llvm_disable_expensive_passes": True,
    **ROUGHLY,
}
os.environ.setdefault("XLA_FLAGS", " ".join(f"--{name}={value}".lower() for name, value in FLAGS.items()))
os.environ.setdefault("MPLBACKEND", "agg")

collect_ignore = ["fit/run_to_resume.py", "mutations.py", "at_0_1_0.py", "torch_paths.py"]  # Programs.
jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(100_000, 50, 100)  # Traces make many objects, and few of them in cycles.


@pytest.fixture(autouse=True)
def _fresh_trace_counters():
    """Chex counts traces by function name, over the whole process."""
    chex.clear_trace_counter()


@pytest.fixture(autouse=True)
def _compiled_programs_are_let_go():
    """Those of tests that have ended."""
    yield
    Programs.let_go_if_large()


# What the tests cost: a worker tells the main process at its end.


def pytest_sessionfinish(session):
    session.config.stash[COSTS] = costs = costs_of_this_process()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["costs"] = costs


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash.setdefault(WORKERS, []).append(getattr(node, "workeroutput", {}).get("costs", (0.0, 0)))


def pytest_terminal_summary(terminalreporter, config):
    seconds, tests = collections.Counter(), collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "when"):
                place = report.nodeid.split("::")[0]
                place = place if place.startswith("tests") else "examples in docstrings"
                seconds[place] += report.duration
                tests[place] += report.when == "call"
    terminalreporter.section("seconds of tests, by file")
    for place, total in seconds.most_common():
        terminalreporter.line(f"{total:7.1f} s {tests[place]:5d} tests  {place}")
    workers = config.stash.get(WORKERS, None) or [config.stash[COSTS]]
    cpu, peaks = sum(cpu for cpu, _ in workers), ", ".join(f"{peak / 1e9:.2f}" for _, peak in workers)
    terminalreporter.line(f"{sum(seconds.values()):7.1f} s in all; {cpu:.0f} s of CPU; peaks of {peaks} GB")


COSTS, WORKERS = pytest.StashKey[tuple[float, int]](), pytest.StashKey[list]()


def costs_of_this_process():
    """Seconds of CPU, those of its ended children included, and the most memory that it held."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    most = used[0].ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return sum(x.ru_utime + x.ru_stime for x in used), most
