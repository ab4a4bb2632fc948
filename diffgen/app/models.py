"""`diffgen models`: what can be drawn with. Reads headers and small JSON files only, and imports no torch."""

from __future__ import annotations

import json as encoder
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from diffgen.app.tables import print_table
from diffgen.checkpoints.fingerprint import weight_files
from diffgen.checkpoints.load import BOX, find
from diffgen.errors import CheckpointError, UsageError

DEFAULT = Path("models")
DEPTH = 3  # folders below the given one; hubs keep checkpoints in owner/name
FILES, PICKLES = (".safetensors", ".gguf"), (".ckpt", ".pt", ".pth")

Folders = Annotated[
    list[Path] | None, typer.Option("--dir", metavar="DIR", help="Where to look; repeatable. Default: ./models.")
]
Families = Annotated[bool, typer.Option("--families", help="List what every family of models can do instead.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model: `model` is what --model takes, `size` the bytes of its weights.

    `pipeline` is a folder's class in diffusers, or what a single file holds.
    """

    model: str
    pipeline: str
    size: int
    problem: str = ""

    @property
    def name(self) -> str:
        """What recipes call it."""
        path = Path(self.model)
        return path.stem if path.suffix.lower() in (*FILES, *PICKLES) else path.name


def models(dir_: Folders = None, families: Families = False, json: Json = False) -> None:
    """List the models on this machine.

    The model in the box comes first, then every diffusers folder and every
    file with a denoiser below the folders given with --dir.

    Examples:
      diffgen models
      diffgen models --dir ~/checkpoints --dir /data/models
      diffgen models --families
      diffgen image "a fox" --model models/stable-diffusion-v1-5
    """
    if families:
        from diffgen.app.families import print_families

        print_families(json)
        return
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
            found = _describe_file(path) if path.is_file() else _describe(str(path), path)
            if found is not None:
                yield found


def _checkpoints(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "model_index.json").is_file():
        yield folder
        return
    below = sorted(Path(entry) for entry in os.scandir(folder) if not entry.name.startswith("."))
    if any(path.name == "config.json" for path in below):
        return  # a component by itself; its weights are no model
    for path in below:
        if path.is_file() and path.suffix.lower() in (*FILES, *PICKLES):
            yield path
        elif path.is_dir() and depth:
            yield from _checkpoints(path, depth - 1)


def _describe_file(path: Path) -> Found | None:
    """A weight file; None where it holds no denoiser, such as a LoRA or an autoencoder."""
    from diffgen.checkpoints.headers import read_header
    from diffgen.checkpoints.recognise import recognise

    found = Found(model=str(path), pipeline="", size=path.stat().st_size)
    if path.suffix.lower() in PICKLES:
        return replace(found, problem="a pickle; --allow-pickle reads it, and runs no code in it")
    try:
        header = read_header(path)
        parts = recognise(header)
    except CheckpointError as error:
        return replace(found, problem=str(error).removeprefix(f"{path} "))
    if not parts or parts[0].row.role != "denoiser":
        loose = recognise(header, sizes=False)
        if not loose or loose[0].row.role != "denoiser":
            return None
        return replace(found, pipeline=f"like {loose[0].row.title}, of sizes of its own; needs --config")
    whole = {"vae", "text"} <= {part.row.role for part in parts}
    return replace(found, pipeline=parts[0].row.title + ("" if whole else ", the denoiser alone"))


def _describe(model: str, path: Path) -> Found:
    size = sum(file.stat().st_size for file in weight_files(path))
    try:
        index = encoder.loads((path / "model_index.json").read_text(encoding="utf-8"))
        pipeline = str(index["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Found(model=model, pipeline="", size=size, problem=f"model_index.json cannot be read: {error}")
    problem = "" if size else f"{pipeline}, but no .safetensors file"
    return Found(model=model, pipeline=pipeline, size=size, problem=problem)
