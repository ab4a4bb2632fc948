"""`diffgen models`: what can be drawn with. Reads small JSON files only, and imports neither torch nor weights."""

from __future__ import annotations

import json as encoder
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from diffgen.app.tables import print_table
from diffgen.checkpoints.fingerprint import weight_files
from diffgen.checkpoints.load import BOX, find
from diffgen.errors import UsageError

DEFAULT = Path("models")
DEPTH = 3  # folders below the given one; hubs keep checkpoints in owner/name

Folders = Annotated[
    list[Path] | None, typer.Option("--dir", metavar="DIR", help="Where to look; repeatable. Default: ./models.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model: `model` is what --model takes, `pipeline` its class in diffusers, `size` the bytes of its weights."""

    model: str
    pipeline: str
    size: int
    problem: str = ""


def models(dir_: Folders = None, json: Json = False) -> None:
    """List the models on this machine.

    The model in the box comes first, then every diffusers folder below the
    folders given with --dir.

    Examples:
      diffgen models
      diffgen models --dir ~/checkpoints --dir /data/models
      diffgen image "a fox" --model models/stable-diffusion-v1-5
    """
    found = list(listing(dir_))
    if json:
        print(encoder.dumps([asdict(one) for one in found], indent=2))
        return
    if not found:
        print("no models here; say where to look with --dir")
        return
    print_table(
        "Models", ("--model", "weights", "what it is"),
        [(one.model, f"{one.size / 1e6:,.0f} MB", one.problem or one.pipeline) for one in found],
    )  # fmt: skip


def listing(folders: list[Path] | None = None) -> Iterator[Found]:
    """The model in the box, then those below `folders` (None: ./models, which need not exist).

    Raises:
        UsageError: a folder that was named does not exist.
    """
    name, box = find(BOX)
    if (box / "model_index.json").is_file():
        yield _describe(name, box)
    for folder in folders if folders is not None else [DEFAULT]:
        folder = folder.expanduser()
        if not folder.is_dir():
            if folders is None:
                continue
            raise UsageError(f"there is no folder {folder} to look for models in")
        for path in _checkpoints(folder, DEPTH):
            yield _describe(str(path), path)


def _checkpoints(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "model_index.json").is_file():
        yield folder
        return
    if depth:
        below = [Path(entry) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
        for path in sorted(below):
            yield from _checkpoints(path, depth - 1)


def _describe(model: str, path: Path) -> Found:
    size = sum(file.stat().st_size for file in weight_files(path))
    try:
        index = encoder.loads((path / "model_index.json").read_text(encoding="utf-8"))
        pipeline = str(index["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Found(model=model, pipeline="", size=size, problem=f"model_index.json cannot be read: {error}")
    problem = "" if size else f"{pipeline}, but no .safetensors file"
    return Found(model=model, pipeline=pipeline, size=size, problem=problem)
