"""What is shown while steps run: a bar on a terminal, lines elsewhere."""

import sys
from contextlib import ExitStack
from typing import Any, Self

import jax


class Progress:
    """A context manager; `rich` draws the bar, where it is installed."""

    def __init__(self, shown: bool, doing: str) -> None:
        self.shown = shown and jax.process_index() == 0
        self.doing = doing
        self._bar: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.shown and sys.stderr.isatty():
            try:
                from rich import console, progress
            except ImportError:
                return self
            columns = (*progress.Progress.get_default_columns(), progress.TimeElapsedColumn())
            bar = progress.Progress(*columns, console=console.Console(stderr=True), transient=True)
            self._bar = self._stack.enter_context(bar)
            self._task = self._bar.add_task(self.doing, total=None)
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.close()

    def at(self, doing: str, total: int | None, completed: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, description=doing, total=total, completed=completed)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text, highlight=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)
