"""From one way of storing a model to another, bit for bit unless another dtype is asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.assemble import Choice, Gathered, choose
from diffgen.checkpoints.blueprint import Slot, from_folder
from diffgen.checkpoints.components import folder_weights
from diffgen.checkpoints.load import dtype_name
from diffgen.checkpoints.networks import TIED, empty_network, fit
from diffgen.checkpoints.single import Files, add_plain, missing, opened
from diffgen.checkpoints.target import check_target
from diffgen.checkpoints.tensors import Weights, is_mark, open_source
from diffgen.checkpoints.write import Progress
from diffgen.checkpoints.written import Target, write_as_it_is, write_folder, write_single, write_weights
from diffgen.errors import CheckpointError, UsageError


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        path: the file or folder.
        files: each weight file and its size in bytes.
        notes: tensors of the source that the target has no place for.
    """

    path: Path
    files: Mapping[Path, int]
    notes: tuple[str, ...] = ()


def convert(
    source: str | Path, target: str | Path, *, dtype: str | None = None, overwrite: bool = False,
    progress: Progress | None = None, **files: Any,
) -> Converted:  # fmt: skip
    """Writes a model another way. The target appears under its name when it is whole.

    Args:
        source: a diffusers folder, or a file with the denoiser in its original layout.
        target: a name ending in .safetensors for one file in the original layout, any other for a diffusers folder.
        dtype: of all floats in the target; None leaves each as it is.
        overwrite: whether the target may exist.
        progress: called after every tensor with the file, its bytes so far and its size.
        files: further files and choices for a single source, as `load` takes them (vae, text_encoder, config ...).
    Raises:
        CheckpointError: the source is damaged, incomplete or of a kind that cannot be written that way.
        UsageError: the target exists or is no kind of file that is written, or the dtype is unknown.
    """
    start, end = Path(source).expanduser(), Path(target).expanduser()
    kind = None if dtype is None else getattr(torch, dtype_name(dtype))
    check_target(end, overwrite)
    if not start.exists():
        raise CheckpointError(f"there is no model at {start}")
    if files and start.is_dir():
        raise UsageError(f"{', '.join(files)} go with a single file; {start} is a folder")
    single = end.suffix == ".safetensors"
    sizes: dict[Path, int] = {}

    def watch(file: Path, done: int, size: int) -> None:
        sizes[file] = size
        if progress is not None:
            progress(file, done, size)

    with _appearing(end) as place:
        to = Target(path=place, dtype=kind, progress=watch)
        notes: tuple[str, ...] = ()
        if start.is_file() and single and files.keys() <= {"allow_pickle"}:
            write_as_it_is(open_source(start, **files), to)
        elif start.is_file():
            notes = _from_file(Files(main=start, **_paths(files)), to, single)
        else:
            _from_folder(start, to, single)
    return Converted(path=end, files={end / file.relative_to(place): size for file, size in sizes.items()}, notes=notes)


@contextmanager
def _appearing(end: Path) -> Iterator[Path]:
    """Another name to write under, which becomes `end` when all is written and is taken away where it fails."""
    place = end.with_name(f".{end.name}.{os.getpid()}")
    old = place.with_name(f"{place.name}.old")
    end.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield place
        if end.is_dir():
            end.rename(old)
        place.replace(end)
    finally:
        for left in (place, old):
            if left.is_dir():
                shutil.rmtree(left)
            left.unlink(missing_ok=True)


def _paths(files: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: Path(value) for key, value in files.items() if key not in {"text_encoder", "kind", "prediction",
             "allow_pickle"}}  # fmt: skip
    texts = files.get("text_encoder", ())
    texts = [texts] if isinstance(texts, str | Path) else texts
    plain = {key: files[key] for key in ("kind", "prediction", "allow_pickle") if key in files}
    return {**named, **plain, "text_encoder": [Path(text) for text in texts]}


def _from_folder(start: Path, to: Target, single: bool) -> None:
    plan = from_folder(start)
    parts = {slot.name: _of_folder(slot, start / slot.name) for slot in plan.slots}
    if single:
        write_single(plan, parts, to)
        return
    shutil.copytree(start, to.path, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin"))
    for name, (_, weights) in parts.items():
        write_weights(plan, name, weights, to)


def _of_folder(slot: Slot, folder: Path) -> tuple[Any, Weights]:
    """(the empty network, its weights under its own names)."""
    library, _, kind = slot.kind.partition(".")
    network = empty_network(getattr(import_module(library), kind), slot.config)
    return network, _named(network, folder_weights(folder), folder)


def _named(network: Any, weights: Weights, origin: object) -> Weights:
    own = network.state_dict()
    names = fit(own, weights)
    if lost := sorted(set(own) - set(names)):
        raise CheckpointError(f"{origin}: {len(lost)} weights are missing, the first is {lost[0]}")
    # Of two names for one table the first is written, as transformers does.
    second = {name for name in ("encoder.embed_tokens.weight", "lm_head.weight") if name in names}
    twice = {name for name in second if names.get(TIED[name]) == names[name]}
    return weights.renamed({name: old for name, old in names.items() if name not in twice})


def _from_file(files: Files, to: Target, single: bool) -> tuple[str, ...]:
    plan, candidates = opened(files)
    gathered, parts = Gathered(), {}
    for slot in plan.slots:
        best = choose(slot, candidates)
        if best is None:
            if not slot.optional:
                raise missing(slot, plan, candidates)
        elif isinstance(best, Choice):
            parts[slot.name] = best.network, _named(best.network, best.weights, best.item.place)
            used = set(fit(best.network.state_dict(), best.weights).values())
            if extra := [name for name in best.weights if name not in used and not is_mark(name)]:
                gathered.unused.setdefault(best.item.place, []).extend(extra)
        else:
            parts[slot.name] = _of_folder(slot, best)
        if slot.name in parts:
            gathered.components[slot.name] = parts[slot.name][0]
    if single:
        write_single(plan, parts, to)
        return gathered.notes
    add_plain(plan, files, candidates, gathered)
    write_folder(plan, parts, gathered.components, to)
    return gathered.notes
