"""Settings that belong to one family: what its network is told, and scales that change over the walk."""

from __future__ import annotations

from pathlib import Path

import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.contracts import Conditioning, Step
from diffgen.errors import UsageError
from diffgen.families.guides import Staged, cosine, staged
from diffgen.guidance import CFG
from diffgen.path import FlowPath
from diffgen.pipelines import prepare
from diffgen.pipelines.text_to_video import prepare as prepare_clip
from tests import tiny_a, tiny_clips


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return diffgen.load(tiny_a.sdxl(tmp_path_factory.mktemp("sdxl")))


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return diffgen.load(tiny_clips.wan(tmp_path_factory.mktemp("wan"), kind="2.2"))


def test_what_the_network_is_told_stands_in_the_recipe(sdxl: Model) -> None:
    usual = prepare(sdxl, "a cat", size=(64, 48), seed=1, sampler="dpmpp_2m")[0].settings
    assert (usual["original_size"], usual["crop"], usual["target_size"]) == ([64, 48], [0, 0], [64, 48])
    told = prepare(sdxl, "a cat", size=(64, 48), seed=1, settings={"crop": [8, 16]})[0].settings
    assert told["crop"] == [8, 16] and told["original_size"] == [64, 48]


@pytest.mark.parametrize("value", [32, [1, 2, 3], "left", [True, 1], None])
def test_numbers_of_the_wrong_kind_are_named(value: object, sdxl: Model) -> None:
    with pytest.raises(UsageError, match=r"crop is 2 numbers, such as \[0, 0\]; got"):
        prepare(sdxl, "a cat", seed=1, settings={"crop": value})


def test_settings_of_another_family_are_refused(sdxl: Model) -> None:
    with pytest.raises(UsageError, match="unknown setting .*'motion'") as told:
        prepare(sdxl, "a cat", seed=1, settings={"motion": 3})
    assert "crop" in str(told.value)


def test_a_second_experts_scale_belongs_to_the_checkpoints_own_first(wan: Model) -> None:
    options = dict(frames=5, size=(32, 32), steps=2, seed=1)
    own = prepare_clip(wan, "a cat", **options)[0]
    assert (own.guidance, own.settings["guidance_2"]) == (4.0, 3.0)
    assert "guidance_2" not in prepare_clip(wan, "a cat", guidance=1.0, **options)[0].settings
    both = prepare_clip(wan, "a cat", guidance=6.0, settings={"guidance_2": 2.0}, **options)[0]
    assert (both.guidance, both.settings["guidance_2"]) == (6.0, 2.0)


def test_the_guidance_in_charge_changes_at_the_boundary() -> None:
    guide = staged(875, scale=1.0, scale_2=3.0)
    assert isinstance(guide, Staged) and guide.scale == 3.0, "a negative prompt has to be encoded"
    path, cond = FlowPath(), Conditioning()
    names = [
        [branch.name for branch in guide.branches(Step.between(path, level, 0.1), cond, cond)] for level in (0.9, 0.8)
    ]
    assert names == [["positive"], ["positive", "negative"]]
    assert isinstance(staged(875, scale=2.0), CFG) and isinstance(staged(0, scale=2.0, scale_2=3.0), CFG)


def test_a_changing_scale_is_off_until_it_is_asked_for() -> None:
    import torch

    assert cosine(scale=6.0) == CFG(scale=6.0)
    guide, step = cosine(scale=6.0, dynamic=True).fresh(), Step.between(FlowPath(), 0.02, 0.0, 0, 50)
    pair = [b.name for b in guide.branches(step, Conditioning(), Conditioning())]
    assert pair == ["positive", "negative"]
    preds = {"positive": torch.ones(1, 1, 1, 1, 1), "negative": torch.zeros(1, 1, 1, 1, 1)}
    # At t = 20 of 50 steps the share is 0.6: 1 + 6 (1 - cos(pi 0.6^5)) / 2.
    assert guide.combine(preds, step).item() == pytest.approx(1.0887, abs=1e-3)


def test_a_model_of_two_ends_wants_both(tmp_path: Path) -> None:
    from diffgen.pipelines import image_to_video
    from tests.parity.harness import picture, unit

    model = diffgen.load(tiny_clips.wan(tmp_path, kind="2.1-flf"))
    with pytest.raises(UsageError, match="goes from a first frame to a last one; give it both"):
        image_to_video(model, unit(picture(32, 32)), "a cat", frames=5, size=(32, 32), steps=1, seed=1)
