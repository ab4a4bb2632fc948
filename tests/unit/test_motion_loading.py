"""A motion module beside a picture model: found, refused, recorded and found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import diffgen
from diffgen.checkpoints.motion import motion_path
from diffgen.checkpoints.replaced import recall
from diffgen.errors import CheckpointError, UsageError
from diffgen.pipelines import text_to_video
from tests import tiny_clips

OPTIONS = dict(frames=4, size=(64, 64), steps=2, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.animatediff(tmp_path_factory.mktemp("animatediff"), joined=False)


@pytest.fixture(scope="module")
def pictures(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The picture model alone."""
    import diffusers
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    parts = diffusers.AnimateDiffPipeline.from_pretrained(folder)
    alone = tmp_path_factory.mktemp("pictures")
    StableDiffusionPipeline(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, scheduler=parts.scheduler,
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"), safety_checker=None, feature_extractor=None,
    ).save_pretrained(alone)  # fmt: skip
    return alone


def test_a_picture_model_with_a_motion_module_draws_what_the_joined_checkpoint_does(
    folder: Path, pictures: Path
) -> None:
    given = diffgen.load(pictures, motion=folder / "motion_adapter")
    one, other = (text_to_video(model, "a cat", **OPTIONS)[0] for model in (given, diffgen.load(folder)))
    assert np.array_equal(one.pixels, other.pixels)
    entry = one.recipe.settings["parts"]["motion"]
    assert entry["file"].endswith("motion_adapter") and len(entry["sha256"]) == 64
    again = diffgen.load(pictures, **recall(one.recipe.settings["parts"], {}))
    assert again.hash == given.hash != diffgen.load(pictures).hash
    assert np.array_equal(text_to_video(again, "a cat", **OPTIONS)[0].pixels, one.pixels)


def test_the_module_in_the_box_is_recorded_without_its_place() -> None:
    table = diffgen.load(motion="box").parts
    assert table["motion"]["file"] == "box"
    assert recall(table, {}) == {"motion": motion_path("box")}
    with pytest.raises(UsageError, match="not the motion that the picture was made with"):
        recall({"motion": {**table["motion"], "sha256": "0" * 64}}, {})


@pytest.mark.parametrize(
    ("motion", "told"),
    [
        ("nowhere", "there is no motion module at nowhere; give 'box'"),
        ("{folder}/vae", "holds a AutoencoderKL; a motion module is a MotionAdapter"),
        ("box", "this motion module is for a U-Net with levels of 96, 192 channels; this one has 8, 16"),
    ],
)
def test_what_is_no_motion_module_for_this_model_is_one_sentence(
    folder: Path, pictures: Path, motion: str, told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        diffgen.load(pictures, motion=motion.format(folder=folder))
