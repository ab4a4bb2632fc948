"""Where pictures and clips go: names chosen before anything is drawn, and never over another file unless told to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgen.app.values import FORMATS as FORMAT_NAMES
from diffgen.app.values import check_choice
from diffgen.errors import UsageError, unknown
from diffgen.media import CLIP_FORMATS, FORMATS, save_image
from diffgen.media.files import FileTaken, check_writable, next_free_path

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe

ROOT = Path("diffgen-out")
ARRAYS = ".npz"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Names for the pictures of one command.

    Attributes:
        folder: where they go.
        stems: one file name a picture, without extension.
        sheet: the same for the contact sheet.
        extension: ".png", ".jpg" ..., or ".npz" for one file with all pictures.
        named: the person chose the name, so a file of that name is an error and not a reason for "-2".
        force: files may be overwritten.
        quality: 1 to 100 for JPEG and WebP.
        fresh: the folders that were not there before, the deepest first.
    """

    folder: Path
    stems: tuple[str, ...]
    sheet: str
    extension: str
    named: bool
    force: bool = False
    quality: int = 95
    fresh: tuple[Path, ...] = ()

    @property
    def arrays(self) -> bool:
        """All pictures go to one .npz file."""
        return self.extension == ARRAYS

    def check(self) -> None:
        """Fails now as saving would fail after minutes of drawing.

        Raises:
            FileTaken: a chosen name is in use.
            UsageError, DiffgenError: the folder cannot be written.
        """
        stems = self.stems if self.named else self.stems[:1]
        paths = [self._path(stem) for stem in stems]
        if len(self.stems) > 1 and self.named and not self.arrays:
            paths.append(self._path(self.sheet))
        for path in paths:
            if not self.force and os.path.lexists(path):
                raise FileTaken(path)
        check_writable(paths[0], overwrite=self.force)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Checks first, and at the end takes back the folders in which nothing was saved. Raises as `check`."""
        try:
            self.check()
            yield
        finally:
            for folder in self.fresh:
                if not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()

    def path(self, index: int) -> Path:
        """Where clip `index` goes: the chosen name, or the first that is free."""
        return self._path(self.stems[index])

    def beside(self, index: int, ending: str) -> Path:
        """A free name beside clip `index`, with `ending` behind its stem, extension included."""
        stem, dot, extension = f"{self.stems[index]}{ending}".rpartition(".")
        return next_free_path(self.folder, stem if dot else extension, extension if dot else "")

    def save(self, index: int, pixels: np.ndarray, recipe: Recipe) -> Path:
        """Writes picture `index` and returns where. Raises as `media.save_image` does."""
        return self._save(self.stems[index], pixels, recipe)

    def save_sheet(self, page: Any) -> Path:
        """Writes the contact sheet, an array [h, w, 3], and returns where."""
        return self._save(self.sheet, page, None)

    def _path(self, stem: str) -> Path:
        if self.named:
            return self.folder / f"{stem}{self.extension}"
        return next_free_path(self.folder, stem, self.extension)

    def _save(self, stem: str, pixels: np.ndarray, recipe: Recipe | None) -> Path:
        overwrite = self.force and self.named
        while True:
            try:
                return save_image(self._path(stem), pixels, recipe, quality=self.quality, overwrite=overwrite)
            except FileTaken:
                # Another process took the free name between looking and writing.
                if self.named:
                    raise


def plan(
    output: str | None, names: Sequence[str], *, format: str | None = None, quality: int = 95, force: bool = False
) -> Outputs:
    """Where pictures with these readable names go.

    `output` is None for a dated folder under `diffgen-out`, a picture file, a .npz file, or a folder. A file
    name for several pictures gets a number: a-1.png, a-2.png ...

    Raises:
        UsageError: the format is unknown, or is not the one of the file's extension.
    """
    check_choice("format", format, FORMAT_NAMES)
    if not 1 <= quality <= 100:
        raise UsageError(f"the quality is 1 to 100; got {quality}")
    extension = f".{format or 'png'}".replace(".jpeg", ".jpg")
    return _plan(output, names, format, extension, FORMATS, "picture", quality=quality, force=force)


def plan_clips(output: str | None, names: Sequence[str], *, format: str | None = None, force: bool = False) -> Outputs:
    """As `plan`, for clips: the formats are those of `diffgen.media.CLIP_FORMATS`, where png is a folder of frames.

    Raises:
        UsageError: the format is unknown, or is not the one of the file's extension.
    """
    extensions = {name: extension for extension, name in CLIP_FORMATS.items()}
    check_choice("format", format, extensions)
    named = {extension: name for extension, name in CLIP_FORMATS.items() if extension}
    return _plan(output, names, format, extensions[format or "mp4"], named, "clip", force=force)


def _plan(
    output: str | None, names: Sequence[str], format: str | None, extension: str, formats: Mapping[str, str], kind: str,
    **more: Any,
) -> Outputs:  # fmt: skip
    path = Path(output or ROOT / date.today().isoformat()).expanduser()
    is_folder = output is None or output.endswith(("/", os.sep)) or path.is_dir() or not path.suffix
    folder = path if is_folder else path.parent
    fresh = tuple(one for one in (folder, *folder.parents) if not one.exists())
    common: dict[str, Any] = {"folder": folder, "fresh": fresh, **more}
    if is_folder:
        return Outputs(stems=tuple(names), sheet=f"{names[0]}-sheet", extension=extension, named=False, **common)
    ending = path.suffix.lower()
    if ending == ARRAYS:
        if format is not None:
            raise UsageError(f"{path} holds arrays and has no {kind} format; leave out --format {format}")
        return Outputs(stems=(path.stem,), sheet="", extension=path.suffix, named=True, **common)
    if ending not in formats:
        raise unknown(f"{kind} format", path.suffix, [*formats, ARRAYS])
    if format is not None and formats[ending] != format:
        raise UsageError(f"{path} is named as {formats[ending]} and --format says {format}; change one of them")
    digits = len(str(len(names)))
    stems = [path.stem] if len(names) == 1 else [f"{path.stem}-{k:0{digits}d}" for k in range(1, len(names) + 1)]
    return Outputs(stems=tuple(stems), sheet=f"{path.stem}-sheet", extension=path.suffix, named=True, **common)
