"""Other people's libraries: used where they are installed, named where they are not."""

import dataclasses
import importlib
import importlib.metadata
from typing import Any


@dataclasses.dataclass
class Peers:
    """Gives modules by name, and remembers which were there (with their versions) and which were not."""

    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, name: str) -> Any:
        """The module, or None."""
        package = name.partition(".")[0]
        try:  # By name, since a type checker would not find what need not be installed.
            module = importlib.import_module(name)
        except (ImportError, OSError):  # OSError: installed, but for a device that is not here.
            self.lacks(package)
            return None
        self.versions[package] = importlib.metadata.version(package)
        return module

    def lacks(self, name: str) -> None:
        """Notes what was not there."""
        if name not in self.missing:
            self.missing.append(name)
