"""What this process holds of the memory of the machine, in bytes, as Linux tells it."""

import re
from pathlib import Path


def now() -> int:
    """What it holds."""
    return _status("VmRSS")


def peak() -> int:
    """The most that it held, since `forget_peak` if that was called."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Lets a new peak begin at what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
