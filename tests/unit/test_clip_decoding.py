"""Decoding in time: pieces equal the whole, memory does not grow, tiles show no seam, NaN is caught on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import diffgen
from diffgen.contracts import Family
from diffgen.errors import NumericalError
from diffgen.families.decoding import InPieces, Piece, in_tiles, joined
from diffgen.pipelines.decoding import Decoding
from tests import tiny_clips
from tests.live_memory import LiveMemory

CACHED: dict[str, Callable[[Path], Path]] = {
    "wan": tiny_clips.wan, "wan 5b": lambda folder: tiny_clips.wan(folder, kind="5b"),
    "cogvideox": tiny_clips.cogvideox, "mochi": tiny_clips.mochi,
}  # fmt: skip


def latents(family: Family, frames: int, side: int = 32) -> Tensor:
    shape = family.spec.shape(batch=1, width=side, height=side, frames=frames)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", CACHED)
def test_a_causal_autoencoder_piece_by_piece_is_the_whole(kind: str, tmp_path: Path) -> None:
    family = diffgen.load(CACHED[kind](tmp_path)).family
    step = family.spec.frame_step or family.spec.frame_factor
    assert isinstance(family, InPieces)
    with torch.inference_mode():
        for count in (2, 3, 4):
            z = latents(family, count * step + 1)
            pieces = list(family.decode_pieces(z))
            assert len(pieces) > 1 or count == 2
            assert (joined(iter(pieces)) - family.decode(z)).abs().max() < 1e-5


def test_every_family_of_clips_decodes_in_pieces() -> None:
    from diffgen.families import animatediff, cogvideox, hunyuan_video, ltx, mochi, svd, wan

    for kind in (
        animatediff.AnimateDiff, cogvideox.CogVideoX, hunyuan_video.HunyuanVideo, ltx.LTX, mochi.Mochi,
        svd.StableVideoDiffusion, wan.Wan,
    ):  # fmt: skip
        assert callable(kind.decode_pieces)


def wide_wan(folder: Path) -> Family:
    """A Wan whose autoencoder is wide enough that its features outweigh its latents, as in the published one."""
    from diffusers import AutoencoderKLWan

    family = diffgen.load(tiny_clips.wan(folder)).family
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=12, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return replace(family, vae=vae.eval())  # type: ignore[type-var]


def test_memory_for_decoding_does_not_grow_with_the_length(tmp_path: Path) -> None:
    family = wide_wan(tmp_path)
    peaks = []
    for frames in (17, 65, 257):
        z = latents(family, frames)
        with LiveMemory() as memory:
            count = sum(len(pixels) for pixels in Decoding(family=family, z=z))
        assert count == frames
        peaks.append(memory.peak)
    assert max(peaks) <= 1.1 * min(peaks)


def pointwise(factor: int) -> Callable[[Tensor], Tensor]:
    """A decoder that looks at nothing but the latent itself: each gives `factor` frames, the first of a clip one."""

    def decode(z: Tensor) -> Tensor:
        frames = z.repeat_interleave(factor, dim=2)
        return frames[:, :, factor - 1 :] if factor > 1 else frames

    return decode


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(2, 9), st.integers(1, 8), st.sampled_from([1, 4, 8]), st.booleans())
def test_tiles_put_every_frame_in_its_place(
    count: int, tile: int, overlap: int, factor: int, published: bool
) -> None:  # fmt: skip
    overlap = min(overlap, tile - 1)
    z = torch.arange(count, dtype=torch.float32).view(1, 1, -1, 1, 1)
    pieces = list(in_tiles(pointwise(factor), z, tile=tile, overlap=overlap, factor=factor, published=published))
    assert torch.allclose(joined(iter(pieces)), pointwise(factor)(z), atol=1e-4)
    assert all(piece.seam is None or piece.seam < 1e-6 for piece in pieces)


def test_tiles_are_exact_where_the_decoder_does_not_look_beyond_a_quarter_of_the_overlap() -> None:
    kernel = torch.tensor([0.25, 0.5, 0.25]).view(1, 1, 3, 1, 1)

    def decode(z: Tensor) -> Tensor:
        return torch.nn.functional.conv3d(torch.nn.functional.pad(z, (0, 0, 0, 0, 1, 1), mode="replicate"), kernel)

    z = torch.randn(1, 1, 50, 2, 2, generator=torch.Generator().manual_seed(0))
    pieces = list(in_tiles(decode, z, tile=16, overlap=8))
    assert len(pieces) > 4 and torch.allclose(joined(iter(pieces)), decode(z), atol=1e-6)
    assert max(piece.seam or 0 for piece in pieces) > 0.05


def test_hunyuan_video_is_tiled_as_diffusers_does(tmp_path: Path) -> None:
    family: Any = diffgen.load(tiny_clips.hunyuan_video(tmp_path)).family
    z = latents(family, 45, side=16)
    with torch.inference_mode():
        ours = family.decode(z)
        family.vae.use_framewise_decoding = True
        theirs = family.vae.decode(z / family.vae.config.scaling_factor).sample
    assert ours.shape == theirs.shape == (1, 3, 45, 16, 16)
    assert (ours - theirs).abs().max() < 1e-5


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float(((a - b) / 2).square().mean()))


@pytest.mark.parametrize(
    # SVD's norms over time see one tile of the clip, which shifts all of it a little.
    ("make", "frames", "least"), [(lambda folder: tiny_clips.ltx(folder, timed=True), 169, 45), (tiny_clips.svd, 40, 40)],
    ids=["ltx", "svd"],
)  # fmt: skip
def test_tiles_are_near_the_whole(make: Callable[[Path], Path], frames: int, least: float, tmp_path: Path) -> None:
    family: Any = diffgen.load(make(tmp_path)).family
    z = latents(family, frames)
    for k in range(1, z.shape[2]):
        # Neighbours in time are alike, as they are in clips.
        z[:, :, k] = 0.9 * z[:, :, k - 1] + math.sqrt(1 - 0.9**2) * z[:, :, k]
    with torch.inference_mode():
        pieces = list(family.decode_pieces(z))
        assert len(pieces) > 1 and psnr(joined(iter(pieces)), family.decode(z)) > least


class Failing:
    """A family whose autoencoder gives NaN in the third of five frames until it runs in float32."""

    def __init__(self, mends: bool) -> None:
        self.components = {"vae": torch.nn.Linear(1, 1).to(torch.bfloat16)}
        self.mends = mends

    def decode_pieces(self, z: Tensor) -> Iterator[Piece]:
        for k in range(z.shape[2]):
            broken = k == 2 and not (self.mends and self.components["vae"].weight.dtype == torch.float32)
            yield Piece(pixels=torch.full((1, 3, 1, 4, 4), math.nan if broken else k / 10))


def test_nan_in_the_middle_is_mended_from_there_on() -> None:
    decoding = Decoding(family=Failing(True), z=torch.zeros(1, 4, 5, 2, 2))  # type: ignore[arg-type]
    frames = [float(pixels[0, 0, 0, 0]) for pixels in decoding]
    assert frames == pytest.approx([0.5 + k / 20 for k in range(5)])
    assert decoding.notes == ("decoding: NaN, retried with the autoencoder in float32",)
    with pytest.raises(NumericalError, match="NaN in float32 too"):
        list(Decoding(family=Failing(False), z=torch.zeros(1, 4, 5, 2, 2)))  # type: ignore[arg-type]
