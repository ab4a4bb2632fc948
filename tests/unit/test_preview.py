"""The latent-to-RGB projection."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgen import preview
from diffgen.contracts import LatentSpec


class Linear:
    """A family whose autoencoder is a known linear map of the averaged picture."""

    spec = LatentSpec(channels=6, factor=8)
    device = torch.device("cpu")

    def __init__(self, mixing: Tensor) -> None:
        self.mixing = mixing

    def encode(self, pixels: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(pixels[:, :, 0], 8)
        return (torch.einsum("bchw,dc->bdhw", small, self.mixing) + 0.3).unsqueeze(2)


def linear() -> Any:
    return Linear(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))


def test_a_linear_autoencoder_is_inverted() -> None:
    family = linear()
    picture = preview.synthetic(2, 64, torch.Generator().manual_seed(5))
    seen = preview.projection(family)(family.encode((picture * 2 - 1).unsqueeze(2)))
    wanted = torch.nn.functional.avg_pool2d(picture, 8).permute(2, 0, 3, 1).flatten(1, 2) * 255
    assert seen.shape == (8, 16, 3) and seen.dtype == np.uint8
    assert np.abs(seen - wanted.numpy()).max() < 4


def test_it_is_fitted_once_and_forgotten_with_the_family() -> None:
    family = linear()
    first = preview.projection(family)
    assert preview.projection(family) is first
    again = preview.fit(family, torch.Generator("cpu").manual_seed(0))
    assert torch.equal(again.weights, first.weights) and torch.equal(again.bias, first.bias)
    key = id(family)
    assert key in preview._fitted
    del family
    gc.collect()
    assert key not in preview._fitted


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    preview.fit(linear(), torch.Generator("cpu").manual_seed(3))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_real_autoencoder_and_odd_latents(sd_folder: Path) -> None:
    import diffgen

    project = preview.projection(diffgen.load(sd_folder).family)
    clip = torch.randn(2, 4, 5, 8, 6)
    assert project(clip).shape == (8, 12, 3)
    assert (project(torch.full((1, 4, 1, 2, 2), torch.nan)) == 0).all()
    assert project(torch.full((1, 4, 1, 2, 2), 1e30)).dtype == np.uint8
