import json

import pytest

from diffgen.errors import UsageError
from diffgen.train import recipes
from diffgen.train.loop import LoopSettings
from diffgen.train.objective import Density


def test_every_recipe_that_comes_along_is_sound():
    from diffgen.train.autoencoder import AutoencoderSettings
    from diffgen.train.denoiser import DenoiserSettings
    from diffgen.train.motion import MotionSettings
    from diffgen.train.text_encoder import TextEncoderSettings

    kinds = {
        "autoencoder": AutoencoderSettings, "text-encoder": TextEncoderSettings, "denoiser": DenoiserSettings,
        "motion": MotionSettings,
    }  # fmt: skip
    methods = set()
    for name in recipes.names():
        method = next(m for m in kinds if name.startswith(m))
        tables = recipes.read(name, method)
        recipes.settings(LoopSettings, tables["loop"])
        recipes.settings(kinds[method], tables["settings"])
        methods.add(method)
    assert methods == set(kinds)


def test_tables_become_settings():
    from diffgen.train.denoiser import DenoiserSettings

    made = recipes.settings(DenoiserSettings, {"channels": [8, 16], "density": {"mean": 0.25}})
    assert made.channels == (8, 16) and made.density == Density(mean=0.25)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"steps": 5, "warmpu": 3}, "did you mean warmup"),
        ({"lr": 1e-3}, "lacks steps"),
        ({"steps": "many"}, "'many'"),
        ({"steps": True}, "True"),
    ],
)
def test_bad_keys_and_values_are_named(table, words):
    with pytest.raises(UsageError, match=words):
        recipes.settings(LoopSettings, table)


def test_bad_recipes_are_named(tmp_path):
    with pytest.raises(UsageError, match="did you mean denoiser"):
        recipes.read("denoisr", "denoiser")
    with pytest.raises(UsageError, match="not for 'denoiser'"):
        recipes.read("autoencoder", "denoiser")
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"method": "denoiser", "lop": {}}))
    with pytest.raises(UsageError, match="did you mean loop"):
        recipes.read(str(file), "denoiser")
    file.write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        recipes.read(str(file), "denoiser")


def test_changes_from_the_command_line():
    assert recipes.override({"steps": 1, "lr": 1.0}, ["steps=9", "precision=fp32"]) == {
        "steps": 9,
        "lr": 1.0,
        "precision": "fp32",
    }
    with pytest.raises(UsageError, match="key=value"):
        recipes.override({}, ["steps"])
