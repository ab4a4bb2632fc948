"""Qwen-Image and its edit variants against diffusers' own pipelines: same weights, seeds, latents and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

import diffgen
from diffgen.errors import UsageError
from diffgen.families import qwen_image
from tests import tiny_b
from tests.tiny_b import difference, edited, ours, picture, qwen_processor, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "photo of a red apple, big and <round>", "a blue cat"
DRAW, EDIT, PLUS = "QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline"
Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(kind: str, **network: Any) -> Path:
        key = f"{kind}{network}"
        if key not in made:
            made[key] = tiny_b.qwen_image(tmp_path_factory.mktemp(kind), kind=kind, **network)
        return made[key]

    return folder


def grid(packed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pipeline's tokens [n, h / 2 * w / 2, 4 c] as latents [n, c, h, w]."""
    rows, columns = size[1] // 16, size[0] // 16
    apart = packed.reshape(packed.shape[0], rows, columns, -1, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return apart.reshape(packed.shape[0], -1, 2 * rows, 2 * columns)


@pytest.mark.parametrize(("guidance", "seeds", "size"), [(4.0, [3, 4, 5], (48, 64)), (1.0, [7], (64, 64))])
def test_draws_the_reference_picture(
    guidance: float, seeds: list[int], size: tuple[int, int], folders: Folders
) -> None:
    want, pixels = reference(
        folders(DRAW), seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, true_cfg_scale=guidance,
        width=size[0], height=size[1],
    )  # fmt: skip
    got, mine = ours(folders(DRAW), seeds, PROMPT, negative=NEGATIVE, steps=6, guidance=guidance, size=size)
    assert difference(got, grid(want, size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_edits_the_reference_picture(guidance: float, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, source, size = folders(EDIT), picture(96, 64), (48, 64)
    # The pipeline makes every picture about a million pixels; a tiny one does here.
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (*source.size, None))
    want, pixels = reference(
        folder, [3, 4, 5], PROMPT, negative_prompt=NEGATIVE, image=source, num_inference_steps=4, repeat=True,
        true_cfg_scale=guidance, width=48, height=64, components={"processor": qwen_processor(folder / "processor")},
    )  # fmt: skip
    got, mine = edited(
        folder, [3, 4, 5], PROMPT, [source], looked_at=[source], negative=NEGATIVE, steps=4, guidance=guidance,
        size=size,
    )  # fmt: skip
    assert difference(got, grid(want, size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize("zero_cond_t", [False, True])
def test_edits_several_pictures(zero_cond_t: bool, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sources, size = folders(PLUS, zero_cond_t=zero_cond_t), [picture(96, 64), picture(64, 96, seed=1)], (48, 64)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 96 * 64)
    for module, name in ((pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE"), (qwen_image, "SHOWN_AREA")):
        monkeypatch.setattr(module, name, 128 * 128)
    want, pixels = reference(
        folder, [3], PROMPT, negative_prompt=NEGATIVE, image=sources, num_inference_steps=4, true_cfg_scale=3.0,
        width=48, height=64, components={"processor": qwen_processor(folder / "processor")},
    )  # fmt: skip
    got, mine = edited(
        folder, [3], PROMPT, sources, looked_at=sources, negative=NEGATIVE, steps=4, guidance=3.0, size=size
    )
    assert difference(got, grid(want, size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_decode_undoes_encode_in_scale(folders: Folders) -> None:
    family: Any = diffgen.load(folders(DRAW)).family
    pixels, config = torch.rand(1, 3, 1, 64, 48) * 2 - 1, family.vae.config
    mean, deviation = (torch.tensor(config[f"latents_{name}"])[:, None, None, None] for name in ("mean", "std"))
    z = family.vae.encode(pixels).latent_dist.mode()
    assert torch.allclose(family.encode(pixels), (z - mean) / deviation, atol=1e-6)
    assert torch.allclose(family.decode(family.encode(pixels)), family.vae.decode(z).sample, atol=1e-5)


def test_a_picture_is_told_the_same_beside_a_longer_prompt(folders: Folders) -> None:
    family: Any = diffgen.load(folders(DRAW)).family
    alone, _ = family.encode_text(["a cat"])
    beside, _ = family.encode_text(["a cat", "a photo of a big red house"])
    length = alone.text["hidden"].shape[1]
    assert torch.equal(beside.text["hidden"][0, :length], alone.text["hidden"][0])
    assert beside.text["mask"].sum(1).tolist()[0] == length < beside.text["mask"].shape[1]


def test_refuses_what_it_cannot_use(folders: Folders) -> None:
    draw, edit, plus = (diffgen.load(folders(*kind)).family for kind in ((DRAW,), (EDIT,), (PLUS,)))
    shown = torch.zeros(1, 3, 1, 64, 64)
    cond, notes = draw.encode_text(["a red apple " * 200])
    assert "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="qwen-image takes no picture; given: reference"):
        draw.attach(cond, {"reference": shown})
    with pytest.raises(UsageError, match="looks at no picture; given: 1"):
        draw.encode_text(["a cat"], pictures=[shown])
    with pytest.raises(UsageError, match="looks at one picture; given: 0"):
        edit.encode_text(["a cat"])
    with pytest.raises(UsageError, match="looks at one picture; given: 2"):
        edit.encode_text(["a cat"], pictures=[shown, shown])
    with pytest.raises(UsageError, match="takes reference; given: reference, reference_2"):
        edit.attach(cond, {"reference": shown, "reference_2": shown})
    with pytest.raises(UsageError, match="looks at one or more pictures; given: 0"):
        plus.encode_text(["a cat"])
    with pytest.raises(UsageError, match="reference_2 is 56x64; both sides must be multiples of 16"):
        plus.attach(cond, {"reference": shown, "reference_2": shown[..., :56]})
