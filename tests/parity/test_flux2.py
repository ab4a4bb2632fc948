"""Flux.2 and Klein against diffusers' own pipelines: same weights, same seeds, same latents and pixels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffgen
from diffgen.errors import UsageError
from diffgen.families.flux2 import empirical_mu
from tests import tiny_b
from tests.tiny_b import difference, edited, ours, picture, reference

TOLERANCE = 1e-4
PROMPT = "photo of a red apple, big and <round>"
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_b.flux2(tmp_path_factory.mktemp(kind), kind=kind)
        return made[kind]

    return folder


def grid(packed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pipeline's tokens [n, h * w, c] as latents [n, c, h, w]."""
    return packed.swapaxes(1, 2).reshape(packed.shape[0], -1, size[1] // 16, size[0] // 16)


@pytest.mark.parametrize(
    ("kind", "guidance", "seeds", "size"),
    [
        ("klein", 1.0, [3, 4, 5], (48, 64)),
        ("base", 4.0, [3, 4, 5], (48, 64)),
        ("base", 1.0, [7], (64, 64)),
        ("dev", 2.5, [3, 4, 5], (48, 64)),
        ("dev", 4.0, [7], (64, 64)),
    ],
)
def test_draws_the_reference_picture(
    kind: str, guidance: float, seeds: list[int], size: tuple[int, int], folders: Folders
) -> None:
    want, pixels = reference(
        folders(kind), seeds, PROMPT, num_inference_steps=4, guidance_scale=guidance, width=size[0], height=size[1]
    )
    got, mine = ours(folders(kind), seeds, PROMPT, steps=4, guidance=guidance, size=size)
    assert difference(got, grid(want, size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize(("kind", "guidance"), [("base", 3.0), ("dev", 3.0)])
def test_edits_the_reference_pictures(kind: str, guidance: float, folders: Folders) -> None:
    sources = [picture(80, 64, seed=1), picture(64, 96, seed=2)]
    want, pixels = reference(
        folders(kind), [3, 4], PROMPT, image=sources, num_inference_steps=4, guidance_scale=guidance, width=48,
        height=64,
    )  # fmt: skip
    got, mine = edited(folders(kind), [3, 4], PROMPT, sources, steps=4, guidance=guidance, size=(48, 64))
    assert difference(got, grid(want, (48, 64))) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_variants_declare_what_they_are(folders: Folders) -> None:
    dev, klein, base = (diffgen.load(folders(kind)).family for kind in ("dev", "klein", "base"))
    assert "guidance_embedding" in dev.caps and "edit" in dev.caps
    assert (klein.defaults.steps, klein.defaults.guidance) == (4, 1.0) and "negative_prompt" not in klein.caps
    assert (base.defaults.steps, base.defaults.guidance) == (50, 4.0) and "negative_prompt" in base.caps


@pytest.mark.parametrize(("tokens", "steps"), [(256, 4), (4096, 50), (4300, 28), (4301, 28), (16384, 4)])
def test_the_shift_is_the_authors_fit(tokens: int, steps: int) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    assert empirical_mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), abs=1e-9)


def test_decode_undoes_encode(folders: Folders) -> None:
    family: Any = diffgen.load(folders("klein")).family
    z = torch.randn(2, 16, 1, 3, 4)
    mean, deviation = family._statistics()
    whole = torch.nn.functional.pixel_shuffle((z * deviation + mean)[:, :, 0], 2)
    assert torch.allclose(family.decode(z)[:, :, 0], family.vae.decode(whole).sample, atol=1e-6)
    assert family.encode(torch.rand(2, 3, 1, 48, 64)).shape == (2, 16, 1, 3, 4)


def test_refuses_what_it_cannot_use(folders: Folders) -> None:
    family: Any = diffgen.load(folders("klein")).family
    cond, notes = family.encode_text(["a red apple " * 200])
    assert cond.text["hidden"].shape[1] == 512 and "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="flux2-klein takes reference, reference_2"):
        family.attach(cond, {"image": torch.zeros(1, 3, 1, 64, 64)})
    with pytest.raises(UsageError, match="reference is 60x64; both sides must be multiples of 16"):
        family.attach(cond, {"reference": torch.zeros(1, 3, 1, 64, 60)})


def test_a_tokenizer_inside_a_processor_is_found(folders: Folders, tmp_path: Path) -> None:
    copy = tmp_path / "bundled"
    shutil.copytree(folders("dev"), copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "tokenizer": ["transformers", "PixtralProcessor"]}))
    want, got = (diffgen.load(path).family.encode_text(["a cat"])[0].text["hidden"] for path in (folders("dev"), copy))
    assert torch.equal(got, want)
