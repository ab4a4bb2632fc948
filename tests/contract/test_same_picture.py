"""The same picture: alone, in a batch, in another process, and again from its recipe."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.pipelines import replay, text_to_image
from diffgen.samplers import SAMPLERS

ASKED = dict(steps=4, guidance=4.0, size=(32, 32), negative="blue")
PROMPT = "photo of a (red:1.2) apple"


@pytest.fixture(scope="module")
def model(sd_folder: Path) -> Model:
    return diffgen.load(sd_folder)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_picture_three_of_a_batch_is_that_seed_alone(sampler: str, model: Model) -> None:
    batch = text_to_image(model, PROMPT, seed=5, count=4, batch=4, sampler=sampler, **ASKED)  # type: ignore[arg-type]
    alone = text_to_image(model, PROMPT, seed=7, sampler=sampler, **ASKED)[0]  # type: ignore[arg-type]
    assert np.abs(batch[2].latents - alone.latents).max() <= 1e-5 * max(1, np.abs(alone.latents).max())
    assert np.abs(batch[2].pixels - alone.pixels).max() <= 1e-5
    assert batch[2].recipe.seed == 7 and batch[2].recipe.batch == 4 and batch[2].recipe.index == 2


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_a_recipe_gives_the_very_same_bits(sampler: str, model: Model) -> None:
    made = text_to_image(model, PROMPT, seed=5, count=3, batch=3, sampler=sampler, **ASKED)  # type: ignore[arg-type]
    again = replay(model, made[1].recipe)
    assert np.array_equal(again.pixels, made[1].pixels) and np.array_equal(again.latents, made[1].latents)
    assert again.recipe == made[1].recipe


def test_low_precision_repeats_its_batch_shape_to_the_bit(sd_folder: Path) -> None:
    model = diffgen.load(sd_folder, dtype="bfloat16")
    made = text_to_image(model, PROMPT, seed=5, count=3, batch=3, **ASKED)  # type: ignore[arg-type]
    for picture in made:
        assert np.array_equal(replay(model, picture.recipe).pixels, picture.pixels)


def test_two_processes_agree_to_the_bit(sd_folder: Path) -> None:
    code = (
        "import sys, hashlib, diffgen\n"
        "from diffgen.pipelines import text_to_image\n"
        f"p = text_to_image(diffgen.load(sys.argv[1]), {PROMPT!r}, seed=5, sampler='dpmpp_2m_sde', **{ASKED!r})[0]\n"
        "print(hashlib.sha256(p.pixels.tobytes() + p.latents.tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, sd_folder], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and len(runs[0].strip()) == hashlib.sha256().digest_size * 2


def test_neighbours_of_other_lengths_do_not_change_a_picture(model: Model) -> None:
    long = " ".join(["red apple"] * 60)
    first = text_to_image(model, long, seed=1, **ASKED)[0]  # type: ignore[arg-type]
    assert np.array_equal(first.pixels, text_to_image(model, long, seed=1, **ASKED)[0].pixels)  # type: ignore[arg-type]
    assert first.recipe.notes == ()
