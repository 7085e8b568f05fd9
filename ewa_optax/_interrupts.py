"""Ctrl-C: held back while something is done that must not be cut in two, and quiet while the command is imported."""

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

if sys.argv[:1] == ["-m"] and ("-m", "ewa_optax") in itertools.pairwise(sys.orig_argv):
    # What ends other commands ends this one, without a traceback, until its `main` knows better: imports take a second.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def held_back(tell: Callable[[], Any]) -> Iterator[list[Any]]:
    """The interrupts that came in the block: one at most, of which `tell` is called; the next one is not held back."""
    came, handler = [], signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield came  # Where no interrupt comes, or none that Python knows how to hand on.
        return

    def hold(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, handler)
        came.append((number, frame))
        tell()

    signal.signal(signal.SIGINT, hold)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, handler)
