"""What a conversion may write to: checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from diffgen.errors import UsageError

_UNWRITTEN = {".gguf", ".ckpt", ".pt", ".pth", ".bin"}


def check_target(end: Path, overwrite: bool) -> None:
    """Refuses a target that is there and must stay, or of a kind that is not written.

    Raises:
        UsageError: it is.
    """
    if end.exists() and not overwrite:
        raise UsageError(f"{end} exists; give another name, or overwrite=True (--force)")
    if end.suffix in _UNWRITTEN:
        raise UsageError(f"{end.suffix} files are not written; accepted: a name ending in .safetensors, or a folder")
