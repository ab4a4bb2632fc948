"""Peak memory of decoding clips of several lengths, and how near decoding in pieces is to decoding the whole.

Run: python -m benchmarks.clip_memory [FAMILY ...]

Tiny random weights, with autoencoders wide enough that their features outweigh the latents, as in published ones.
Memory is that of all tensors alive at once, counted exactly (`tests.live_memory`); of a real run it is that part
which grows or does not. The whole is decoded for PSNR at the middle length only.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import diffgen
from diffgen.families.decoding import joined
from diffgen.pipelines.decoding import Decoding
from tests import tiny_clips
from tests.live_memory import LiveMemory

LENGTHS = (16, 64, 256)


def wan(folder: Path) -> Any:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    shape = {"z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
    return replace(diffgen.load(tiny_clips.wan(folder)).family, vae=AutoencoderKLWan(base_dim=12, **shape).eval())


def loaded(make: Callable[..., Path], **options: Any) -> Callable[[Path], Any]:
    return lambda folder: diffgen.load(make(folder, **options)).family


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "animatediff": loaded(tiny_clips.animatediff), "wan": wan, "cogvideox": loaded(tiny_clips.cogvideox),
    "mochi": loaded(tiny_clips.mochi), "ltx": loaded(tiny_clips.ltx, timed=True), "svd": loaded(tiny_clips.svd),
    "hunyuan-video": loaded(tiny_clips.hunyuan_video),
}  # fmt: skip


def clip(family: Any, frames: int) -> torch.Tensor:
    """Random latents whose neighbours in time are alike, as they are in clips."""
    step = family.spec.frame_step or family.spec.frame_factor
    side = 64 if family.spec.multiple <= 32 else family.spec.multiple
    shape = family.spec.shape(batch=1, width=side, height=side, frames=-(-(frames - 1) // step) * step + 1)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for k in range(1, z.shape[2]):
        z[:, :, k] = 0.9 * z[:, :, k - 1] + math.sqrt(1 - 0.9**2) * z[:, :, k]
    return z


def peak(family: Any, z: torch.Tensor) -> tuple[float, float | None]:
    """(MB at the peak, the largest seam)."""
    decoding = Decoding(family=family, z=z)
    with LiveMemory() as memory:
        for _ in decoding:
            pass
    return memory.peak / 1e6, decoding.seam


def nearness(family: Any, z: torch.Tensor) -> float:
    """PSNR in dB of the pieces against the whole."""
    whole = getattr(family, "_decode", family.decode)
    with torch.inference_mode():
        error = float(((joined(family.decode_pieces(z)) - whole(z)) / 2).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def main(names: list[str]) -> None:
    print(f"{'family':14}" + "".join(f"{f'{n} frames':>14}" for n in LENGTHS) + "   largest/least   PSNR     seam")
    for name in names or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            family = FAMILIES[name](Path(folder))
            found = [peak(family, clip(family, frames)) for frames in LENGTHS]
            peaks, seam = [one[0] for one in found], found[-1][1]
            near = nearness(family, clip(family, LENGTHS[1]))
        cells = "".join(f"{value:11.2f} MB" for value in peaks)
        shown = "-" if seam is None else f"{seam:.4f}"
        print(f"{name:14}{cells}   {max(peaks) / min(peaks):13.3f}   {near:5.1f} {shown:>8}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
