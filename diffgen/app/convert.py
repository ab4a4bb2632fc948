"""`diffgen convert`: a model from one way of storing it to another, and what was written."""

from __future__ import annotations

import json as encoder
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgen.app.display import note
from diffgen.app.loading import Loading, takes_loading

if TYPE_CHECKING:
    from diffgen.checkpoints.convert import Converted

Source = Annotated[str, typer.Argument(metavar="SRC", help="A diffusers folder, or a weight file with the denoiser.")]
Target = Annotated[
    Path, typer.Argument(metavar="DST", help="NAME.safetensors for one file in the original layout, else a folder.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; left out, every weight stays as it is.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite DST.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON object instead of lines.")]


@takes_loading
def convert(
    source: Source, target: Target, dtype: Dtype = None, force: Force = False, json: Json = False, *, loading: Loading
) -> None:
    """Convert a model between a diffusers folder, one original file, and dtypes.

    Without --dtype nothing is rounded: what was converted and back is the
    same to the bit. DST appears when it is whole, and nothing is overwritten
    without --force. Larger files than memory are no problem.

    Examples:
      diffgen convert sd15.safetensors sd15/
      diffgen convert sd15/ sd15.safetensors --dtype float16
      diffgen convert model.ckpt model.safetensors --allow-pickle
      diffgen convert flux1-dev.gguf flux-dev/ --vae ae.safetensors
        --text-encoder clip_l.safetensors --text-encoder t5xxl.safetensors
        --tokenizer t5/
    """
    _check(source, target, dtype, force, loading)
    from diffgen.checkpoints.convert import convert as write
    from diffgen.checkpoints.load import find

    files = {name: value for name, value in loading.options().items() if name != "download"}
    _, start = find(source, download=loading.download)
    with _bar() as progress:
        done = write(start, target, dtype=dtype, overwrite=force, progress=progress, **files)
    _tell(done, json)


def _check(source: str, target: Path, dtype: str | None, force: bool, loading: Loading) -> None:
    """What can be found wrong before torch is imported."""
    from diffgen.checkpoints.load import dtype_name
    from diffgen.checkpoints.target import check_target

    if dtype is not None:
        dtype_name(dtype)
    check_target(target.expanduser(), force)
    loading.check(source)


def _tell(done: Converted, as_json: bool) -> None:
    for text in done.notes:
        note(text)
    if as_json:
        files = {str(file): size for file, size in done.files.items()}
        print(encoder.dumps({"target": str(done.path), "files": files, "notes": list(done.notes)}))
        return
    for file, size in done.files.items():
        print(f"{file}  {size / 1e6:,.1f} MB")


@contextmanager
def _bar() -> Iterator[Callable[[Path, int, int], None] | None]:
    """A bar on standard error for the file that is being written; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    tasks: dict[Path, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def step(file: Path, done: int, size: int) -> None:
            if file not in tasks:
                folder = "" if file.parent.name.startswith(".") else file.parent.name
                tasks[file] = bar.add_task(f"writing {folder}", total=size)
            bar.update(tasks[file], completed=done)

        yield step
