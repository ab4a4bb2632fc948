"""What becomes of an error: one sentence on standard error and an exit code.

| what happened | exit code |
|---|---|
| everything was made | 0 |
| the machine or the model failed, a note under --strict, a replay that differs | 1 |
| something that was asked for cannot be | 2 |
| Ctrl-C | 130 |
| a fault of diffgen's own, with its traceback | 70 |
"""

from __future__ import annotations

import errno
import sys
import traceback

from diffgen.errors import DiffgenError

INTERRUPTED = 130
OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h
REPORT = "this is a fault in diffgen; please report it with the lines above and the command"
MEMORY = "out of memory; try a smaller --size, a smaller --batch, or --dtype bfloat16"
# PyTorch's CPU allocator has no exception of its own.
_MEMORY_SIGNS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_EXTRAS = {"accelerate": "train", "tensorboard": "train", "resvg_py": "train", "peft": "train", "av": "video"}


class Interrupted(DiffgenError):
    """Ctrl-C, with what was kept."""

    exit_code = INTERRUPTED


class StrictError(DiffgenError):
    """There were notes, and --strict makes them an error."""


class Differs(DiffgenError):
    """A replay did not give the same picture."""


def say(text: str) -> None:
    """One line of diffgen's own on standard error."""
    print(f"diffgen: {' '.join(text.split())}", file=sys.stderr)


def report(error: BaseException) -> int:
    """Tells the person about `error`, and gives the exit code. Must be called while it is being handled."""
    sentence, code = explain(error)
    if sentence is None:
        traceback.print_exception(error)
        sentence = REPORT
    if sentence:
        say(sentence)
    return code


def explain(error: BaseException) -> tuple[str | None, int]:
    """(sentence, exit code) of an error. The sentence is None for a fault of our own, "" to say nothing."""
    if isinstance(error, DiffgenError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped", INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "", 1
    if _is_memory(error):
        return MEMORY, 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{f': {error.filename}' if error.filename else ''}", 1
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] in _EXTRAS:
        name = error.name.partition(".")[0]
        return f"this needs the package {name}; run: pip install 'diffgen[{_EXTRAS[name]}]'", 1
    # The class of Typer's own errors has had three homes (click, typer.core, a bundled click).
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _usage(error), int(error.exit_code)
    return None, OWN_FAULT


def _usage(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    message = message[:1].lower() + message[1:]
    if context is None:
        return message
    return f"{message}{' See' if message.endswith('?') else '; see'} {context.command_path} --help"


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)
