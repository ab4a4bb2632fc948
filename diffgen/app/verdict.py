"""How what was drawn again compares with its file, and how that is told."""

from __future__ import annotations

import json as encoder
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffgen.app.display import note
from diffgen.app.errors import Differs

if TYPE_CHECKING:
    import numpy as np

LOSSY = (".jpg", ".jpeg", ".webp")
ALIKE = 30.0  # dB; JPEG and WebP at quality 80 keep more than this of nearly every picture


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a picture compares with its file, in steps of 0..255. `psnr` is infinite where they are the same.

    A clip is compared by the hash of its frames alone: then `largest` and `psnr` are None.
    """

    same: bool
    lossy: bool = False
    largest: int | None = None
    psnr: float | None = None

    @property
    def passed(self) -> bool:
        """The same to the bit, or as like as a format that loses detail can show."""
        return self.same or (self.lossy and self.psnr is not None and self.psnr >= ALIKE)


def compare(file: Path, pixels: np.ndarray) -> Verdict:
    """How float pixels [h, w, 3] in 0..1 compare with a picture file.

    Raises:
        Differs: they are not even of one size.
    """
    import numpy as np

    from diffgen.media import load_image, to_pixels

    there, now = to_pixels(load_image(file)), to_pixels(pixels)
    if there.shape != now.shape:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (there.shape, now.shape)]
        raise Differs(f"{file} is {sizes[0]} pixels, and its recipe draws {sizes[1]}")
    apart = np.abs(there.astype(int) - now.astype(int))
    mean = float((apart**2).mean())
    return Verdict(
        same=not apart.any(), lossy=file.suffix.lower() in LOSSY, largest=int(apart.max()),
        psnr=math.inf if mean == 0 else 10 * math.log10(255**2 / mean),
    )  # fmt: skip


def tell(file: Path, verdict: Verdict, otherwise: list[str], as_json: bool) -> None:
    """Says what the comparison gave.

    Raises:
        Differs: the picture is another one.
    """
    apart = "its frames have another hash"
    if verdict.psnr is not None:
        apart = f"largest difference {verdict.largest} of 255, PSNR {verdict.psnr:.1f} dB"
    cause = "; ".join(otherwise) or "nothing that the recipe records; another processor or build of torch can do it"
    if as_json:
        found = {"same": verdict.same, "passed": verdict.passed, "largest": verdict.largest,
                 "psnr": None if verdict.same else verdict.psnr, "differences": otherwise}  # fmt: skip
        print(encoder.dumps({"kind": "verdict", "file": str(file), **found}))
    if not verdict.passed:
        raise Differs(f"{file} is not what its recipe draws here ({apart}). What is otherwise: {cause}")
    if not as_json:
        lossy = f"the same, as far as a format that loses detail shows ({apart})"
        print(f"{file}: {'the same to the bit' if verdict.same else lossy}")
        for sentence in otherwise:
            note(f"otherwise than then: {sentence}")
