"""Stable Diffusion 3: its shift belongs to the model, and its table of positions ends somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import UsageError
from diffgen.pipelines import prepare, text_to_image
from tests import tiny_a

PROMPT = "a photo of a red apple"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return diffgen.load(tiny_a.sd3(tmp_path_factory.mktemp("sd3")))


def test_a_schedule_of_the_users_own_keeps_the_models_shift(model: Model) -> None:
    recipe = prepare(model, PROMPT, schedule="sgm_uniform", seed=1)[0]
    assert recipe.settings["shift"] == 3.0


def test_a_side_beyond_the_table_of_positions_is_named(model: Model) -> None:
    with pytest.raises(UsageError, match="the longest is 128"):
        text_to_image(model, PROMPT, size=(256, 64), steps=1)


def test_t5_may_be_missing(tmp_path: Path) -> None:
    folder = tiny_a.sd3(tmp_path, t5=False)
    assert "text_encoder_3" not in diffgen.load(folder).family.components
