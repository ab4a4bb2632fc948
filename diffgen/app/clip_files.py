"""The options of `diffgen video` that say how clips are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from diffgen.app.filming import Filming
from diffgen.app.image import FILES
from diffgen.app.outputs import Outputs
from diffgen.errors import UsageError
from diffgen.media import Encoding, Sound, check_format
from diffgen.media.movie import CONTAINERS


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=FILES, help=help, **more)


@dataclass(frozen=True, kw_only=True)
class ClipFiles:
    """What `diffgen.media.Encoding` is told, and what is written beside a clip."""

    format: Annotated[str | None, _option("--format", help="mp4, webm, gif, webp, apng, or png: a folder.")] = None
    codec: Annotated[str | None, _option("--codec", help="h264, h265 or av1 in MP4, vp9 or av1 in WebM.")] = None
    crf: Annotated[int | None, _option("--crf", help="Constant quality of MP4 and WebM; lower is better.")] = None
    bitrate: Annotated[
        str | None, _option("--bitrate", metavar="RATE", help="Bits a second instead of --crf, such as 4M or 800k.")
    ] = None
    quality: Annotated[int, _option("--quality", help="Of WebP, 1 to 100.")] = 90
    lossless: Annotated[bool, _option("--lossless", help="WebP without loss.")] = False
    sound: Annotated[
        Path | None, _option("--sound", metavar="CLIP", help="Pass this clip's sound through to MP4 or WebM.")
    ] = None
    sheet: Annotated[bool, _option("--sheet", help="Also a page with frames of each clip.")] = False
    keep_frames: Annotated[
        bool, _option("--keep-frames", help="Also each frame as PNG, kept even where the clip fails.")
    ] = False

    def filming(self, outputs: Outputs, sound_of: Path | None, *, streamed: bool) -> Filming:
        """How clips are written to `outputs`, with the sound of `sound_of` where none is asked for.

        Raises:
            UsageError: an option does not go with the format, or an encoder is not installed.
        """
        encoding = Encoding(
            codec=self.codec, crf=self.crf, bitrate=bits(self.bitrate), quality=self.quality, lossless=self.lossless
        )
        if not outputs.arrays:
            check_format(outputs.folder / f"clip{outputs.extension}", encoding)
        path = self.sound or (sound_of if outputs.extension.lower() in CONTAINERS else None)
        if path is not None and not path.is_file() and path is self.sound:
            raise UsageError(f"there is no file {path}, given as --sound")
        from_clip = path is not None and path.is_file() and path.suffix.lower() != ".npz"
        return Filming(
            encoding=encoding, sheet=self.sheet, keep_frames=self.keep_frames, streamed=streamed,
            sound=Sound(path=path) if path is not None and from_clip else None,
        )  # fmt: skip


def bits(text: str | None) -> int | None:
    """Bits a second of "4M", "800k" or "250000"; None stays None.

    Raises:
        UsageError: it is none of them.
    """
    if text is None:
        return None
    unit = {"k": 1_000, "m": 1_000_000}.get(text.strip()[-1:].lower(), 1)
    number = text.strip() if unit == 1 else text.strip()[:-1]
    try:
        found = round(float(number) * unit)
    except (ValueError, OverflowError):
        found = 0
    if found <= 0:
        raise UsageError(f"the bitrate is bits a second, such as 4M or 800k; got {text!r}")
    return found
