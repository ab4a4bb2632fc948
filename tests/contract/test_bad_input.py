"""What a person can get wrong in Python: one sentence with the value seen and what is accepted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import CheckpointError, NumericalError, UsageError
from diffgen.pipelines import prepare, text_to_image


@pytest.fixture(scope="module")
def model(sd_folder: Path) -> Model:
    return diffgen.load(sd_folder)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"size": (130, 127)}, "130x127 .* multiples of 8, such as 128x128"),
        ({"size": (0, 64)}, "multiples of 8, such as 8x64"),
        ({"sampler": "dpm2m"}, "unknown sampler 'dpm2m'; did you mean dpm_2, dpmpp_2m"),
        ({"schedule": "karas"}, "unknown schedule 'karas'; did you mean karras"),
        ({"settings": {"etta": 1}}, "unknown setting .*'etta'.*did you mean"),
        ({"steps": 0}, "steps"),
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"settings": {"guidance_rescale": 2}}, "0 to 1; got 2"),
        ({"settings": {"clip_skip": 9}}, "clip skip must be 1 to 3"),
    ],
)
def test_values_out_of_range_are_named(model: Model, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        text_to_image(model, options.pop("prompt", "a cat"), **options)


def test_a_prompt_of_five_thousand_words_is_refused_with_the_limit(model: Model) -> None:
    with pytest.raises(UsageError, match="40"):
        text_to_image(model, "cat " * 5000, steps=2)


def damaged(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def test_a_missing_model_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no model at"):
        diffgen.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: (f / "model_index.json").unlink(), "model_index.json is missing"),
        (lambda f: (f / "model_index.json").write_text("<html>"), "cannot be read as JSON"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "no .safetensors"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"junk" * 99), "damaged"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer is missing"),
        (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").rename(f / "vae" / "a.bin"), "is a pickle"),
    ],
)
def test_damaged_checkpoints_are_refused_by_name(sd_folder: Path, tmp_path: Path, change: Any, says: str) -> None:
    folder = damaged(sd_folder, tmp_path)
    change(folder)
    with pytest.raises(CheckpointError, match=says):
        diffgen.load(folder)


def test_a_truncated_weight_file_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    file = damaged(sd_folder, tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="unet.*damaged"):
        diffgen.load(tmp_path / "damaged")


def test_a_missing_weight_and_an_unknown_kind_are_named(sd_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = damaged(sd_folder, tmp_path)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop("conv_in.weight")
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"1 weights are missing, the first is conv_in\.weight"):
        diffgen.load(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DancePipeline", "vae": index["vae"]}))
    with pytest.raises(CheckpointError, match="DancePipeline; accepted"):
        diffgen.load(folder)


def test_nan_weights_end_in_a_sentence_not_a_black_picture(sd_folder: Path) -> None:
    model = diffgen.load(sd_folder)
    with torch.no_grad():
        model.family.components["denoiser"].conv_in.weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match="step 1 of 3"):
        text_to_image(model, "a cat", steps=3)


def test_low_precision_overflow_is_redrawn_in_float32(sd_folder: Path) -> None:
    model = diffgen.load(sd_folder, dtype="float16")
    unet = model.family.components["denoiser"]
    with torch.no_grad():
        unet.conv_in.weight.mul_(3e4)
        unet.conv_norm_out.weight.mul_(1e-2)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    picture = text_to_image(model, "a cat", steps=2)[0]
    assert any("retried with the U-Net in float32" in note for note in picture.recipe.notes)
    assert all(value.dtype == torch.float16 for value in unet.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_nothing_is_drawn_to_find_out_that_a_value_is_wrong(model: Model) -> None:
    with pytest.raises(UsageError):
        prepare(model, "a cat", sampler="nope")
