"""The schedule fitted to a model: where the levels go, that they are kept, and used."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import diffgen
from diffgen.errors import UsageError
from diffgen.path import EDMPath
from diffgen.pipelines import fitted, fitting, text_to_image


def test_steps_are_dense_where_the_estimate_moves() -> None:
    path, lams = EDMPath(), np.linspace(-4, 6, 41)
    change = np.exp(-((lams[1:] - 1) ** 2))  # all that happens happens around lambda 1
    levels = fitting._placed(path, lams, change)
    assert levels[0] == path.max_level and all(b < a for a, b in pairwise(levels))
    near = [level for level in levels if abs(-np.log(level) - 1) < 1.5]
    assert len(near) > len(levels) / 2


def test_a_fit_is_kept_with_the_model_and_used(
    sd_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sd_folder, folder)
    model = diffgen.load(folder)
    with pytest.raises(UsageError, match="samplers --fit"):
        text_to_image(model, "red apple", schedule="optimal", steps=4, seed=1, size=(32, 32))
    levels = fitting.fit(model, ["red apple"], steps=8)
    file = fitted.save(model, levels)
    made = text_to_image(model, "red apple", schedule="optimal", steps=4, seed=1, size=(32, 32))[0]
    assert file.parent == folder and made.recipe.settings["levels"] == pytest.approx(levels)
    assert fitted.save(model, levels) == file
    file.write_text("mine")
    with pytest.raises(UsageError, match="move it away"):
        fitted.save(model, levels)
    assert file.read_text() == "mine"
