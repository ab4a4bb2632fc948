"""Guidance by its settings, through a whole run: each has an effect, is recorded, and changes no bit where neutral."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import UsageError
from diffgen.pipelines import Picture, replay, text_to_image

ASKED = dict(prompt="photo of a red apple", negative="blue", seed=7, steps=5, size=(64, 64), guidance=5.0)


def draw(model: Model, **options: Any) -> Picture:
    return text_to_image(model, **{**ASKED, **options})[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(sd_folder: Path) -> Model:
    return diffgen.load(sd_folder)


@pytest.fixture(scope="module")
def plain(model: Model) -> Picture:
    return draw(model)


def apart(one: Picture, other: Picture) -> float:
    return float(np.abs(one.latents - other.latents).max())


NEUTRAL = [
    {"guidance_rescale": 0.0}, {"guidance_percentile": 1.0}, {"guidance_converged": 1.0}, {"negative_start": 0.0},
    {"negative_stop": 1.0}, {"auto_scale": 1.0}, {"pag_scale": 0.0}, {"seg_scale": 0.0}, {"slg_scale": 0.0},
    {"guidance_start": 0.0, "guidance_stop": 1.0},
]  # fmt: skip
ACTING = [
    {"guidance_method": "apg"}, {"guidance_method": "cfg_zero"}, {"guidance_method": "tangential"},
    {"guidance_method": "frequency"}, {"guidance_rescale": 0.7}, {"guidance_percentile": 0.9},
    {"guidance_start": 0.4}, {"guidance_stop": 0.6}, {"negative_start": 0.4}, {"negative_stop": 0.6},
    {"negative_start": 0.2, "negative_stop": 0.6}, {"pag_scale": 2.0}, {"seg_scale": 2.0},
    {"auto_scale": 2.0, "auto_layers": "mid"}, {"pag_scale": 2.0, "pag_stop": 0.5}, {"guidance_converged": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("settings", NEUTRAL, ids=str)
def test_a_neutral_setting_changes_no_bit(model: Model, plain: Picture, settings: dict[str, Any]) -> None:
    assert np.array_equal(draw(model, settings=settings).latents, plain.latents)


@pytest.mark.parametrize("settings", ACTING, ids=str)
def test_a_setting_acts_and_is_drawn_again_to_the_bit(model: Model, plain: Picture, settings: dict[str, Any]) -> None:
    picture = draw(model, settings=settings)
    assert apart(picture, plain) > 1e-5
    assert {key: picture.recipe.settings[key] for key in settings} == settings
    assert np.array_equal(replay(model, picture.recipe).latents, picture.latents)


@pytest.mark.parametrize("method", ["apg", "cfg_zero", "tangential", "frequency"])
def test_at_scale_one_every_method_is_no_guidance(model: Model, method: str) -> None:
    none = draw(model, guidance=1.0)
    assert np.array_equal(draw(model, guidance=1.0, settings={"guidance_method": method}).latents, none.latents)


def test_the_negative_prompt_is_empty_outside_its_part(model: Model) -> None:
    empty = draw(model, negative="")
    assert apart(draw(model, settings={"negative_start": 0.9}), empty) == 0  # no step of 5 begins there
    assert apart(draw(model, settings={"negative_start": 0.8}), empty) > 0
    with pytest.raises(UsageError, match="negative_start and negative_stop must"):
        draw(model, settings={"negative_start": 0.5, "negative_stop": 0.5})


def test_a_map_says_where_the_guidance_acts(model: Model, plain: Picture, tmp_path: Path) -> None:
    unguided = draw(model, guidance=1.0)
    for value, want in ((255, plain), (0, unguided)):
        file = tmp_path / f"{value}.png"
        Image.new("L", (64, 64), value).save(file)
        got = draw(model, settings={"guidance_map": str(file)})
        assert np.allclose(got.latents, want.latents, atol=1e-5)
    Image.new("L", (64, 64), 128).save(file)
    with pytest.raises(UsageError, match="has changed since the picture was drawn"):
        replay(model, got.recipe)
    with pytest.raises(UsageError, match="there is nothing at"):
        draw(model, settings={"guidance_map": str(tmp_path / "none.png")})


def test_auto_guidance_with_a_second_model(model: Model, plain: Picture, sd_folder: Path, tmp_path: Path) -> None:
    same = shutil.copytree(sd_folder, tmp_path / "same")
    got = draw(model, settings={"auto_scale": 3.0, "auto_model": str(same)})
    assert apart(got, plain) < 1e-4  # positive and weak are one
    assert len(got.recipe.settings["auto_model_sha256"]) == 64
    with pytest.raises(UsageError, match="either auto_model"):
        draw(model, settings={"auto_scale": 3.0})


def test_adaptive_guidance_tells_what_it_saved(model: Model) -> None:
    picture = draw(model, settings={"guidance_converged": 0.0})
    assert picture.recipe.extra == {"predictions": 6, "predictions_saved": 4}
