"""Where the model in the box lies."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

BOX = "box"


def asset(name: str) -> Path:
    """A folder that comes with diffgen: "box" or "box-motion"."""
    return Path(next(iter(import_module("diffgen.assets").__path__))) / name
