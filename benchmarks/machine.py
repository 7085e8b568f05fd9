"""What was measured on: the device, its host, and the versions of what ran."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import jax

import ewa_optax

LIBRARIES = ("jax", "jaxlib", "optax", "numpy")


def machine() -> dict:
    """The device that JAX computes on, and cores, CPU and memory beside it (None, where the system does not say)."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory": _memory(),
    }


def _cpu() -> str | None:
    cpus = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", cpus.read_text(), re.MULTILINE) if cpus.exists() else None
    return named[1].strip() if named else platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def kind(machine: dict) -> str:
    """The name of a folder of results: `cpu-2-cores`, `nvidia-h200`."""
    if machine["platform"] == "cpu":
        return f"cpu-{machine['cores']}-cores"
    return re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")


def words(machine: dict) -> str:
    """A machine in words."""
    memory = f", {machine['memory'] / 2**30:.0f} GiB" if machine["memory"] else ""
    device = "" if machine["platform"] == "cpu" else f"{machine['device']} ({machine['platform']}) beside "
    return f"{device}{machine['cores']} cores of {machine['cpu'] or 'a CPU'}{memory}"


def versions() -> dict[str, str]:
    """Of Python, and of what every benchmark runs."""
    own = {"python": platform.python_version(), "ewa_optax": ewa_optax.__version__}
    return own | {name: importlib.metadata.version(name) for name in LIBRARIES}
