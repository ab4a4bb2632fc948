"""Sana and Sana-Sprint against diffusers' own pipelines: same weights, same seeds, same latents and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.errors import UsageError
from tests import tiny_b
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "Photo of a red apple", "a blue cat"
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_b.sana(tmp_path_factory.mktemp(kind), kind=kind)
        return made[kind]

    return folder


@pytest.mark.parametrize(
    ("kind", "guidance", "seeds", "size"),
    [("dpm", 4.5, [3, 4, 5], (96, 64)), ("dpm", 1.0, [7], (64, 64)), ("euler", 4.5, [7], (64, 96))],
)
def test_draws_the_reference_picture(
    kind: str, guidance: float, seeds: list[int], size: tuple[int, int], folders: Folders
) -> None:
    want, pixels = reference(
        folders(kind), seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, guidance_scale=guidance,
        width=size[0], height=size[1], use_resolution_binning=False,
    )  # fmt: skip
    got, mine = ours(folders(kind), seeds, PROMPT, negative=NEGATIVE, steps=6, guidance=guidance, size=size)
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize(
    ("steps", "guidance", "seeds", "size"),
    [(2, 4.5, [3, 4, 5], (96, 64)), (4, 1.0, [7], (64, 64)), (1, 4.5, [7], (64, 64))],
)
def test_sprint_draws_the_reference_picture(
    steps: int, guidance: float, seeds: list[int], size: tuple[int, int], folders: Folders
) -> None:
    # Its callback sees the latents of the step before the last.
    want, pixels = reference(
        folders("sprint"), seeds, PROMPT, num_inference_steps=steps, guidance_scale=guidance,
        intermediate_timesteps=1.3 if steps == 2 else None, width=size[0], height=size[1],
        use_resolution_binning=False, twice=True,
    )  # fmt: skip
    got, mine = ours(folders("sprint"), seeds, PROMPT, steps=steps, guidance=guidance, size=size)
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_defaults_are_those_of_the_checkpoint(folders: Folders) -> None:
    sana: Any = diffgen.load(folders("dpm")).family
    sprint: Any = diffgen.load(folders("sprint")).family
    assert (sana.defaults.sampler, sana.defaults.sized(64, 64, 1, 20)) == ("dpmpp_2m", {"shift": 3.0})
    assert (sprint.defaults.sampler, sprint.defaults.schedule, sprint.defaults.steps) == ("lcm", "trig", 2)
    assert "guidance_embedding" in sprint.caps and "guidance_embedding" not in sana.caps
    pixels = torch.rand(1, 3, 1, 64, 64) * 2 - 1
    want = sana.vae.encode(pixels[:, :, 0]).latent * sana.vae.config.scaling_factor
    assert torch.allclose(sana.encode(pixels)[:, :, 0], want, atol=1e-6)


def test_refuses_what_it_cannot_use(folders: Folders) -> None:
    family: Any = diffgen.load(folders("dpm")).family
    cond, notes = family.encode_text(["a red apple " * 150])
    assert cond.text["hidden"].shape[1] == 300 and "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="sana takes no picture; given: image"):
        family.attach(cond, {"image": torch.zeros(1, 3, 1, 64, 64)})
