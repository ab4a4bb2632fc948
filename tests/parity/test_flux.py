"""Flux.1 dev, schnell, Fill and Kontext, and Redux's tokens, against diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import diffgen
from diffgen.errors import CheckpointError, UnsupportedError, UsageError
from tests import tiny_a
from tests.parity.test_sdxl import deterministic
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
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


@pytest.mark.parametrize(
    ("guidance", "true_cfg", "seeds", "size"),
    [(3.5, 1.0, [7], (64, 64)), (2.0, 3.0, [3, 4, 5], (48, 80)), (5.0, 1.0, [3, 4, 5], (80, 48))],
)
def test_dev_draws_the_reference_picture(
    guidance: float, true_cfg: float, seeds: list[int], size: tuple[int, int], dev: Path
) -> None:
    want, pixels = reference(
        dev, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=guidance,
        true_cfg_scale=true_cfg, width=size[0], height=size[1],
    )  # fmt: skip
    settings = {} if true_cfg == 1 else {"true_cfg": true_cfg}
    got, mine = ours(dev, seeds, PROMPT, negative=NEGATIVE, steps=5, guidance=guidance, size=size, settings=settings)
    assert difference(got, tiny_a.unpacked(want, *size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_schnell_has_no_guidance_and_no_shift(tmp_path: Path) -> None:
    folder = tiny_a.flux(tmp_path, distilled=False)
    family = diffgen.load(folder).family
    assert family.name == "flux-schnell" and "guidance_embedding" not in family.caps
    want, pixels = reference(
        folder, [3, 4], PROMPT, num_inference_steps=4, guidance_scale=0.0, max_sequence_length=256, width=48, height=64
    )
    got, mine = ours(folder, [3, 4], PROMPT, size=(48, 64))
    assert difference(got, tiny_a.unpacked(want, 48, 64)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize(("seeds", "size"), [([3, 4, 5], (48, 80)), ([7], (64, 64))])
def test_fill_takes_every_pixel_of_the_mask(
    seeds: list[int], size: tuple[int, int], fill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, hole = tiny_a.picture(*size), tiny_a.mask(*size)
    got, mine = tiny_a.attached(
        fill, "inpaint", seeds, PROMPT, {"image": image, "mask": hole}, steps=5, guidance=30.0, size=size
    )
    deterministic(monkeypatch)
    want, pixels = reference(
        fill, seeds, PROMPT, num_inference_steps=5, guidance_scale=30.0, image=tiny_a.pil(image),
        mask_image=tiny_a.pil(hole), width=size[0], height=size[1],
    )  # fmt: skip
    assert difference(got, tiny_a.unpacked(want, *size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize(
    ("true_cfg", "seeds", "size"), [(1.0, [7], (64, 64)), (2.5, [3, 4, 5], (48, 80))]
)
def test_kontext_looks_at_a_picture_of_another_size(
    true_cfg: float, seeds: list[int], size: tuple[int, int], kontext: Path
) -> None:
    image = tiny_a.picture(80, 32)
    settings = {} if true_cfg == 1 else {"true_cfg": true_cfg}
    got, mine = tiny_a.attached(
        kontext, "edit", seeds, PROMPT, {"reference": image}, negative=NEGATIVE, steps=5, guidance=2.5, size=size,
        settings=settings,
    )  # fmt: skip
    want, pixels = reference(
        kontext, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=2.5,
        true_cfg_scale=true_cfg, image=tiny_a.pil(image), width=size[0], height=size[1], max_area=size[0] * size[1],
        _auto_resize=False,
    )  # fmt: skip
    assert difference(got, tiny_a.unpacked(want, *size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_kontext_draws_without_a_picture_too(kontext: Path) -> None:
    want, _ = reference(
        kontext, [7], PROMPT, num_inference_steps=3, guidance_scale=2.5, width=64, height=64, max_area=64 * 64
    )
    got, _ = ours(kontext, [7], PROMPT, steps=3, guidance=2.5, size=(64, 64))
    assert difference(got, tiny_a.unpacked(want, 64, 64)) < TOLERANCE


def test_redux_tokens_stand_behind_the_text(dev: Path) -> None:
    torch.manual_seed(3)
    embedder = diffusers.pipelines.flux.modeling_flux.ReduxImageEncoder(redux_dim=12, txt_in_features=32)
    with torch.no_grad():
        vision = embedder(torch.randn(1, 9, 12)).image_embeds
    got, mine = tiny_a.attached(dev, "text_to_image", [3], PROMPT, {"vision": vision}, steps=4, size=(64, 48))
    pipe = diffusers.FluxPipeline.from_pretrained(dev, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        hidden, pooled, _ = pipe.encode_prompt(PROMPT)
    want = {
        kind: pipe(
            prompt_embeds=torch.cat([hidden, vision], dim=1), pooled_prompt_embeds=pooled, num_inference_steps=4,
            guidance_scale=3.5, width=64, height=48, generator=[torch.Generator().manual_seed(3)], output_type=kind,
        ).images
        for kind in ("latent", "np")
    }  # fmt: skip
    assert difference(got, tiny_a.unpacked(want["latent"].numpy(), 64, 48)) < TOLERANCE
    assert difference(mine, want["np"]) < TOLERANCE


def test_the_shift_grows_with_the_picture(dev: Path) -> None:
    sized = diffgen.load(dev).family.defaults.sized
    assert sized is not None
    small, large = sized(256, 256, 1, 28)["shift"], sized(1024, 1024, 1, 28)["shift"]
    assert small == pytest.approx(torch.tensor(0.5).exp().item()) and large == pytest.approx(3.158, abs=1e-3)


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
        diffgen.load(kontext).family.attach(cond, {"reference": tiny_a.picture(40, 32)})
    two = {"reference": tiny_a.picture(32, 32), "reference_2": tiny_a.picture(48, 16)}
    assert [tuple(z.shape[-2:]) for z in diffgen.load(kontext).family.attach(cond, two).reference] == [(4, 4), (2, 6)]


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
