"""What a person says about an adapter file: where it is and how strongly it acts. Reads nothing but names."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path

from diffgen.adapters.blocks import parse_blocks
from diffgen.errors import CheckpointError, UsageError
from diffgen.prompts.language import LoraTag

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".pth")
# What diffusers and peft call the one file of a LoRA folder.
_IN_FOLDER = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "learned_embeds.safetensors")
_SHOWN = 5


@dataclass(frozen=True)
class Adapter:
    """A LoRA file or a textual inversion embedding, and how to use it.

    Attributes:
        path: the file, or a folder as diffusers and peft save one.
        strength: multiplies what the file does to the denoisers; 1 is what it was trained for, 0 and negative
            values are allowed.
        text_strength: the same for the text encoders; None is `strength`.
        blocks: weights of blocks, multiplied with the strength. A pattern is the beginning of a layer's name, in
            diffusers' or in the author's words ("up_blocks.1", "double_blocks.*", "text_encoder_2",
            "denoiser_2"), or A1111's short form ("IN04", "MID", "OUT03", "BASE" for the text encoders). The
            longest pattern that fits a layer counts; layers that none fits have 1.
        word: what stands for an embedding in prompts; None is the file's own word, or its name.
        allow_pickle: read .pt, .bin and .ckpt files, through `weights_only`, which runs no code.

    Raises:
        UsageError: a strength is not a finite number.
    """

    path: Path
    _: KW_ONLY
    strength: float = 1.0
    text_strength: float | None = None
    blocks: Mapping[str, float] = field(default_factory=dict)
    word: str | None = None
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).expanduser())
        named = {"strength": self.strength, "text strength": self.text_strength, **self.blocks}
        for name, value in named.items():
            wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
            if value is not None and wrong:
                raise UsageError(f"the {name} of {self.path.name} must be a finite number; got {value!r}")

    @property
    def name(self) -> str:
        """The file's name without its suffix, or the folder's."""
        return self.path.stem if self.path.suffix in SUFFIXES else self.path.name

    def strength_on(self, component: str) -> float:
        """What multiplies the file's effect on a network, by its name among the family's components."""
        if component.startswith("text_encoder") and self.text_strength is not None:
            return self.text_strength
        return self.strength

    @property
    def file(self) -> Path:
        """The file to read.

        Raises:
            CheckpointError: there is nothing at that path, or a folder without exactly one adapter.
        """
        if self.path.is_file():
            return self.path
        if not self.path.is_dir():
            raise CheckpointError(f"there is no adapter at {self.path}")
        known = [self.path / name for name in _IN_FOLDER if (self.path / name).is_file()]
        found = known or sorted(self.path.glob("*.safetensors"))
        if len(found) != 1:
            raise CheckpointError(f"the folder {self.path} holds {len(found)} adapter files; name one")
        return found[0]


def parse(text: str) -> Adapter:
    """`FILE`, `FILE:0.8`, `FILE:0.8:0.5`: strength on the denoisers, and on the text encoders; `:lbw=...` may follow.

    >>> a = parse("style.safetensors:0.8:0.5:lbw=IN04=0.5,MID=0")
    >>> a.name, a.strength, a.text_strength, a.blocks
    ('style', 0.8, 0.5, {'IN04': 0.5, 'MID': 0.0})

    Raises:
        UsageError: the block weights behind "lbw=" cannot be read.
    """
    number = r"[+-]?(?:\d+\.?\d*|\.\d+)"
    found = re.fullmatch(rf"(.+?)(?::({number}))?(?::({number}))?(?::lbw=(.*))?", text)
    if found is None or Path(text).exists():
        # A colon is allowed in file names.
        return Adapter(Path(text))
    path, strength, text_strength, blocks = found.groups()
    return Adapter(
        Path(path),
        strength=1.0 if strength is None else float(strength),
        text_strength=None if text_strength is None else float(text_strength),
        blocks={} if blocks is None else parse_blocks(blocks),
    )


def as_adapters(given: Sequence[Adapter | str | Path]) -> tuple[Adapter, ...]:
    """Adapters out of adapters, paths, and texts as for `parse`."""
    if isinstance(given, (str, Path, Adapter)):
        given = [given]
    return tuple(
        one if isinstance(one, Adapter) else Adapter(one) if isinstance(one, Path) else parse(one) for one in given
    )


def find(name: str, folders: Sequence[Path | str]) -> Path:
    """The adapter file of that name in the folders or below them, with or without suffix, in any case of letters.

    Raises:
        UsageError: there is none, and the message names the nearest; or there are several.
    """
    if not folders:
        raise UsageError(f"the prompt asks for the LoRA {name!r}, and no folder to look in was given")
    wanted = name.lower().replace("\\", "/")
    files = [file for folder in folders for file in sorted(Path(folder).expanduser().rglob("*"))]
    files = [file for file in files if file.suffix.lower() in SUFFIXES]
    known = {file: (file.stem.lower(), file.name.lower()) for file in files}
    found = [file for file, names in known.items() if wanted in names]
    if "/" in wanted:
        found = [file for file in files if file.with_suffix("").as_posix().lower().endswith(f"/{wanted}")]
    if len(found) > 1:
        several = ", ".join(map(str, found[:_SHOWN]))
        raise UsageError(f"several adapters are named {name!r}: {several}; give a longer path")
    if found:
        return found[0]
    near = difflib.get_close_matches(wanted, [stem for stem, _ in known.values()], n=_SHOWN, cutoff=0.4)
    hint = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    where = ", ".join(map(str, folders))
    raise UsageError(f"unknown LoRA {name!r}; {hint}{len(files)} adapters are in {where}")


def from_tags(tags: Sequence[LoraTag], folders: Sequence[Path | str]) -> tuple[Adapter, ...]:
    """The adapters that the `<lora:name:0.8>` tags of a prompt ask for.

    Raises:
        UsageError: as `find`.
    """
    return tuple(
        Adapter(
            find(tag.name, folders), strength=tag.unet, text_strength=tag.te,
            blocks=parse_blocks(tag.blocks) if tag.blocks else {},
        )
        for tag in tags
    )  # fmt: skip


def sha256(file: Path) -> str:
    """SHA-256 of a file in hex, as model sites show it; read once for each path, size and time of change."""
    stat = file.stat()
    return _digest(file.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(file: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
