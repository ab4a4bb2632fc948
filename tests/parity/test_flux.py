"""Flux.1: its shift, and what each variant refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

import diffgen
from diffgen.checkpoints.redux import load_redux
from diffgen.errors import CheckpointError, UnsupportedError, UsageError
from tests import tiny_a
from tests.parity.harness import picture
from tests.tiny_b import ours

PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.flux(tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.flux(tmp_path_factory.mktemp("kontext"), pipeline="FluxKontextPipeline")


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.flux(tmp_path_factory.mktemp("fill"), pipeline="FluxFillPipeline")


def test_the_shift_grows_with_the_picture(dev: Path) -> None:
    sized = diffgen.load(dev).family.defaults.sized
    assert sized is not None
    small, large = sized(256, 256, 1, 28)["shift"], sized(1024, 1024, 1, 28)["shift"]
    assert small == pytest.approx(torch.tensor(0.5).exp().item()) and large == pytest.approx(3.158, abs=1e-3)


@pytest.mark.parametrize("size", [(512, 512), (1920, 1080), (600, 800), (3000, 1000), (100, 900)])
def test_a_picture_to_edit_has_a_size_that_kontext_knows(size: tuple[int, int], kontext: Path, dev: Path) -> None:
    spec = diffgen.load(kontext).family.spec
    assert spec.sizes == tuple(PREFERRED_KONTEXT_RESOLUTIONS)
    ratio = size[0] / size[1]
    _, *want = min((abs(ratio - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    assert spec.nearest(*size) == tuple(want)
    assert diffgen.load(dev).family.spec.nearest(*size) == size


def test_a_negative_prompt_without_true_cfg_is_reported(dev: Path) -> None:
    from diffgen.pipelines import text_to_image

    model = diffgen.load(dev)
    silent = text_to_image(model, PROMPT, steps=1, size=(64, 64), seed=1)[0]
    told = text_to_image(model, PROMPT, negative=NEGATIVE, steps=1, size=(64, 64), seed=1)[0]
    assert not silent.recipe.notes
    assert "negative prompt" in told.recipe.notes[0] and "true_cfg" in told.recipe.notes[0]
    assert (silent.latents == told.latents).all()


def test_refuses_what_it_cannot_draw(dev: Path, fill: Path, kontext: Path) -> None:
    plain: Any = diffgen.load(dev).family
    cond, _ = plain.encode_text(["a"])
    with pytest.raises(UsageError, match="flux-dev takes no picture; given: reference"):
        plain.attach(cond, {"reference": torch.zeros(1, 3, 1, 64, 64)})
    with pytest.raises(UsageError, match="vision tokens of width 32; got 8"):
        plain.attach(cond, {"vision": torch.zeros(1, 3, 8)})
    with pytest.raises(UsageError, match="flux-fill takes image, mask; given: none"):
        diffgen.load(fill).family.attach(cond, {})
    with pytest.raises(UnsupportedError, match="flux-fill cannot do text_to_image"):
        ours(fill, [1], PROMPT)
    with pytest.raises(UsageError, match="multiples of 16"):
        ours(dev, [1], PROMPT, size=(72, 64), steps=1)
    with pytest.raises(UsageError, match="reference is 40x32; both sides must be multiples of 16"):
        diffgen.load(kontext).family.attach(cond, {"reference": picture(40, 32)})
    two = {"reference": picture(32, 32), "reference_2": picture(48, 16)}
    assert [tuple(z.shape[-2:]) for z in diffgen.load(kontext).family.attach(cond, two).reference] == [(4, 4), (2, 6)]


def test_a_folder_that_is_not_redux_is_refused(dev: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a FluxPipeline; Redux is a FluxPriorReduxPipeline"):
        load_redux(dev)
    with pytest.raises(CheckpointError, match="no model_index.json in"):
        load_redux(tmp_path)


def test_redux_listens_less_to_a_weaker_picture(tmp_path: Path) -> None:
    redux = load_redux(tiny_a.redux(tmp_path))
    whole, half = (redux.look(picture(48, 32), strength) for strength in (1.0, 0.5))
    assert whole.shape == (1, 16, 32) and torch.allclose(half * 2, whole)


def test_an_unknown_token_layout_is_refused(tmp_path: Path) -> None:
    folder = tiny_a.flux(tmp_path)
    family: Any = diffgen.load(folder).family
    family.transformer.register_to_config(in_channels=128)
    from diffgen.families.common import Parts
    from diffgen.families.flux import build

    with pytest.raises(CheckpointError, match=r"takes 128 channels a token; accepted: 64 .*, 384 \(Fill\)"):
        build(Parts(origin=folder, index={}, components={"transformer": family.transformer, "vae": family.vae}))


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "100KB"}])
def test_half_variants_and_shards_load_as_the_whole(options: dict[str, Any], dev: Path, tmp_path: Path) -> None:
    whole = diffusers.FluxPipeline.from_pretrained(dev, local_files_only=True)
    whole.save_pretrained(tmp_path, **options)
    assert not (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").exists()
    loaded: Any = diffgen.load(tmp_path).family
    for name in ("transformer", "text_encoder", "text_encoder_2", "vae"):
        want, got = getattr(whole, name).state_dict(), getattr(loaded, name).state_dict()
        assert want.keys() == got.keys() and all(torch.equal(want[key], got[key]) for key in want)
