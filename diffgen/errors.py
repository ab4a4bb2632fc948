"""The errors a person can cause and mend.

The command line prints the message of these alone, without a traceback, and exits with `exit_code`.
Everything else that escapes is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DiffgenError(Exception):
    """One clear sentence: what was wrong, the value seen, what is accepted."""

    exit_code = 1


class UsageError(DiffgenError, ValueError):
    """A value the user gave cannot be used."""

    exit_code = 2


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged, of an unknown kind, or unsafe to read."""


class UnsupportedError(UsageError):
    """This family cannot do this task, or this sampler cannot walk this path."""


class NumericalError(DiffgenError):
    """The network gave NaN or infinity, and no safer setting was left to try."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """An unknown name, with the three nearest names and the whole list.

    >>> str(unknown("sampler", "eulr", ["euler", "heun"]))
    "unknown sampler 'eulr'; did you mean euler? accepted: euler, heun"
    """
    names = sorted(choices)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}; {hint}accepted: {', '.join(names)}")
