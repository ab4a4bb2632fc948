"""The identity of a checkpoint: SHA-256 over its weight files, computed once and remembered."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from diffgen.errors import CheckpointError

_BLOCK = 1 << 22


def cache_folder() -> Path:
    """Where diffgen keeps what it can compute again: the platform's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "diffgen"


def weight_files(path: Path) -> list[Path]:
    """The weight files of a checkpoint, in a fixed order: the file itself, or those of a folder."""
    return [path] if path.is_file() else sorted(path.rglob("*.safetensors"))


def fingerprint(*paths: Path) -> str:
    """SHA-256 in hex over the digests of the checkpoint's weight files, all `paths` in their order.

    A file's digest is cached by its path, size and time of change, so that a large file is read once.

    Raises:
        CheckpointError: there is no weight file.
    """
    files = []
    for path in paths:
        found = weight_files(path)
        if not found:
            raise CheckpointError(f"{path} has no .safetensors file")
        files += found
    known_file = cache_folder() / "fingerprints.json"
    known = _read(known_file)
    before = dict(known)
    total = hashlib.sha256()
    for file in files:
        key = _key(file)
        if key not in known:
            known[key] = _digest(file)
        total.update(known[key].encode())
    if known != before:
        _write(known_file, known)
    return total.hexdigest()


def known_fingerprint(path: Path) -> str | None:
    """The fingerprint where every file's digest is remembered, else None. Reads no weights."""
    known, total = _read(cache_folder() / "fingerprints.json"), hashlib.sha256()
    for file in weight_files(path):
        if (digest := known.get(_key(file))) is None:
            return None
        total.update(digest.encode())
    return total.hexdigest()


def _key(file: Path) -> str:
    stat = file.stat()
    return f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}  # no cache yet, or a damaged one: it is only a cache
    return found if isinstance(found, dict) else {}


def _write(file: Path, known: dict[str, str]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(known))
        temporary.replace(file)
    except OSError:
        return  # a read-only home costs a second reading next time, and nothing else
