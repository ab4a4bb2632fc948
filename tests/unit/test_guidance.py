"""Guidance: the published formulas, and nothing at all at the neutral setting."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch

from diffgen.contracts import Conditioning, steps_of
from diffgen.errors import UsageError
from diffgen.guidance import CFG, PUSHES, Perturbed, Renormed, rescaled
from diffgen.guidance.cfg import thresholded
from diffgen.path import betas_path
from diffgen.schedules import levels

STEPS = steps_of(betas_path(), levels("normal", betas_path(), 10))
POS, NEG = Conditioning(text={"hidden": torch.ones(1, 2)}), Conditioning(text={"hidden": torch.zeros(1, 2)})


def predictions() -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 4, 1, 3, 3, generator=gen) for name in ("positive", "negative")}


def test_scale_one_runs_one_branch_and_changes_nothing() -> None:
    guidance = CFG(scale=1.0, rescale=0.7)
    assert [branch.name for branch in guidance.branches(STEPS[0], POS, NEG)] == ["positive"]
    only = {"positive": predictions()["positive"]}
    assert guidance.combine(only, STEPS[0]) is only["positive"]


def test_the_formula() -> None:
    preds = predictions()
    want = preds["negative"] + 5 * (preds["positive"] - preds["negative"])
    assert torch.allclose(CFG(scale=5.0).combine(preds, STEPS[0]), want, atol=1e-5)


def test_rescale_is_the_references() -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    preds = predictions()
    plain = CFG(scale=5.0).combine(preds, STEPS[0])
    want = rescale_noise_cfg(plain, preds["positive"], guidance_rescale=0.7)
    assert torch.allclose(CFG(scale=5.0, rescale=0.7).combine(preds, STEPS[0]), want, atol=1e-6)


def test_an_interval_saves_the_negative_branch_outside() -> None:
    guidance = CFG(scale=5.0, start=0.2, stop=0.8)
    counts = [len(guidance.branches(step, POS, NEG)) for step in STEPS]
    assert counts == [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("values", [{"rescale": 1.5}, {"start": 0.5, "stop": 0.5}, {"stop": 1.2}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must"):
        CFG(**values)


def push(method: str, scale: float = 4.0, **options: object) -> torch.Tensor:
    guidance = CFG(scale=scale, method=method, **options).fresh()  # type: ignore[arg-type]
    return guidance.combine(predictions(), STEPS[2])


def reference() -> tuple[torch.Tensor, torch.Tensor]:
    # diffusers' guiders take [batch, channels, height, width].
    preds = predictions()
    return preds["positive"].squeeze(2), preds["negative"].squeeze(2)


def test_projected_guidance_is_the_references() -> None:
    from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

    pos, neg = reference()
    want = normalized_guidance(pos, neg, 3.0, None, eta=0.2, norm_threshold=2.0, use_original_formulation=True)
    got = push("apg", tuning={"parallel": 0.2, "threshold": 2.0})
    assert torch.allclose(got.squeeze(2), want, atol=1e-5)


def test_momentum_lives_for_one_run() -> None:
    guidance = CFG(scale=4.0, method="apg")
    one, two = guidance.fresh(), guidance.fresh()
    first = one.combine(predictions(), STEPS[0])
    assert not torch.equal(one.combine(predictions(), STEPS[1]), first)
    assert torch.equal(two.combine(predictions(), STEPS[0]), first)


def test_tangential_damping_is_the_references() -> None:
    from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance

    assert torch.allclose(push("tangential").squeeze(2), normalized_guidance(*reference(), 4.0), atol=1e-5)


def test_zero_star_is_the_references_and_starts_with_nothing() -> None:
    from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

    pos, neg = reference()
    fitted = neg * cfg_zero_star_scale(pos.flatten(1), neg.flatten(1)).reshape(-1, 1, 1, 1)
    assert torch.allclose(push("cfg_zero").squeeze(2), fitted + 4.0 * (pos - fitted), atol=1e-5)
    guidance = CFG(scale=4.0, method="cfg_zero").fresh()
    assert not guidance.combine(predictions(), STEPS[0]).any()


def test_frequency_guidance_at_one_scale_is_plain() -> None:
    assert torch.allclose(push("frequency", tuning={"low": 1.0}), push("cfg"), atol=1e-5)
    assert not torch.allclose(push("frequency"), push("cfg"), atol=1e-2)


def test_thresholding_keeps_the_size_of_the_positive_branch() -> None:
    got, pos = push("cfg", scale=12.0, percentile=0.95), predictions()["positive"]
    high = torch.quantile(pos.flatten(1).abs(), 0.95, dim=1)
    assert torch.allclose(got.flatten(1).abs().amax(1), high, rtol=0.05)


def test_adaptive_guidance_stops_paying_once_both_agree() -> None:
    guidance = CFG(scale=4.0, converged=0.99).fresh()
    near = {"positive": predictions()["positive"], "negative": predictions()["positive"] * 1.001}
    assert len(guidance.branches(STEPS[0], POS, NEG)) == 2
    guidance.combine(predictions(), STEPS[0])
    assert len(guidance.branches(STEPS[1], POS, NEG)) == 2
    assert torch.equal(guidance.combine(near, STEPS[1]), CFG(scale=4.0).combine(near, STEPS[1]))
    assert len(guidance.branches(STEPS[2], POS, NEG)) == 1


@pytest.mark.parametrize("method", PUSHES)
def test_every_picture_of_a_batch_is_guided_alone(method: str) -> None:
    preds = predictions()
    whole = CFG(scale=5.0, method=method).fresh().combine(preds, STEPS[3])
    alone = CFG(scale=5.0, method=method).fresh().combine({k: v[1:] for k, v in preds.items()}, STEPS[3])
    assert torch.allclose(whole[1:], alone, atol=1e-6)


@pytest.mark.parametrize("method", PUSHES)
def test_the_neutral_scale_changes_no_bit(method: str) -> None:
    guidance = CFG(scale=1.0, method=method).fresh()
    names = [branch.name for branch in guidance.branches(STEPS[0], POS, NEG)]
    only = {name: predictions()[name] for name in names}
    assert guidance.combine(only, STEPS[0]) is only["positive"]


def test_unknown_methods_and_settings_list_the_choices() -> None:
    with pytest.raises(UsageError, match="did you mean apg"):
        CFG(method="apgg")
    with pytest.raises(UsageError, match="no setting 'low'; accepted: momentum, threshold, parallel"):
        CFG(method="apg", tuning={"low": 1})


def test_a_region_has_the_whole_push_where_it_is_one_and_none_where_it_is_zero() -> None:
    preds = predictions()
    region = torch.zeros(1, 1, 1, 3, 3)
    region[..., 1:, :] = 1.0
    region[..., 2, :] = 0.5
    got = CFG(scale=5.0, region=region).combine(preds, STEPS[0])
    assert torch.equal(got[..., 0, :], preds["positive"][..., 0, :])
    assert torch.allclose(got[..., 1, :], CFG(scale=5.0).combine(preds, STEPS[0])[..., 1, :], atol=1e-6)
    assert torch.allclose(got[..., 2, :], CFG(scale=3.0).combine(preds, STEPS[0])[..., 2, :], atol=1e-6)


@pytest.mark.parametrize("method", PUSHES)
def test_every_method_takes_a_region_for_each_picture(method: str) -> None:
    preds, by_picture = predictions(), torch.tensor([0.5, 1.0]).reshape(2, 1, 1, 1, 1)
    got = CFG(scale=5.0, method=method, region=by_picture).fresh().combine(preds, STEPS[3])
    for k, scale in enumerate((3.0, 5.0)):
        alone = {name: pred[k : k + 1] for name, pred in preds.items()}
        want = CFG(scale=scale, method=method).fresh().combine(alone, STEPS[3])
        assert torch.allclose(got[k : k + 1], want, atol=1e-5)


def test_a_region_is_cut_to_the_window() -> None:
    region = torch.linspace(0, 1, 3).reshape(1, 1, 1, 1, 3).expand(1, 1, 1, 3, 3)
    window = (slice(0, 1), slice(0, 3), slice(1, 3))
    preds = predictions()
    whole = CFG(scale=5.0, region=region).combine(preds, STEPS[0])
    part = CFG(scale=5.0, region=region).combine(
        {name: pred[..., 1:3] for name, pred in preds.items()}, replace(STEPS[0], window=window)
    )
    assert torch.equal(part, whole[..., 1:3])


def test_adaptive_guidance_counts_what_it_saves() -> None:
    guidance = CFG(scale=4.0, converged=0.99).fresh()
    near = {"positive": predictions()["positive"], "negative": predictions()["positive"] * 1.001}
    for step in STEPS:
        asked = guidance.branches(step, POS, NEG)
        guidance.combine({branch.name: near[branch.name] for branch in asked}, step)
    assert guidance.saved == len(STEPS) - 1
    assert guidance.fresh().saved == 0


def nothing(components: object) -> AbstractContextManager[None]:
    return nullcontext()


def perturbed(weight: float, scale: float, **options: object) -> torch.Tensor:
    gen = torch.Generator().manual_seed(1)
    preds = {**predictions(), "weak": torch.randn(2, 4, 1, 3, 3, generator=gen)}
    guidance = Perturbed(base=CFG(scale=scale, **options), name="weak", weight=weight, patch=nothing)  # type: ignore[arg-type]
    asked = {branch.name for branch in guidance.branches(STEPS[3], POS, NEG)}
    return guidance.combine({name: pred for name, pred in preds.items() if name in asked}, STEPS[3])


def weak() -> torch.Tensor:
    return torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0])
def test_auto_guidance_is_the_references(scale: float) -> None:
    from diffusers.guiders import AutoGuidance

    # Its implementation skips blocks by hooks; here only the formula is asked for.
    guider = AutoGuidance(guidance_scale=scale, auto_guidance_layers=[0], dropout=1.0)
    guider._step, guider._num_inference_steps = 3, 10
    want = guider.forward(predictions()["positive"], weak()).pred
    assert torch.allclose(perturbed(scale - 1, scale=1.0), want, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("kind", ["SkipLayerGuidance", "PerturbedAttentionGuidance", "SmoothedEnergyGuidance"])
def test_weakened_branches_join_as_in_the_reference(kind: str, scale: float) -> None:
    from diffusers import guiders

    prefix = {"SkipLayerGuidance": "skip_layer_guidance", "PerturbedAttentionGuidance": "perturbed_guidance",
              "SmoothedEnergyGuidance": "seg_guidance"}[kind]  # fmt: skip
    guider = getattr(guiders, kind)(
        guidance_scale=scale - 1,
        use_original_formulation=True,  # positive + (scale - 1) (positive - negative), where 0 is neutral
        **{f"{prefix}_scale": 2.5, f"{prefix}_start": 0.0, f"{prefix}_stop": 1.0, f"{prefix}_layers": [0]},
    )
    guider._step, guider._num_inference_steps = 3, 10
    preds = predictions()
    want = guider.forward(preds["positive"], preds["negative"], weak()).pred
    assert torch.allclose(perturbed(2.5, scale=scale), want, atol=1e-5)


def test_a_neutral_weakened_branch_changes_no_bit() -> None:
    assert torch.equal(perturbed(0.0, scale=1.0), predictions()["positive"])
    assert torch.equal(perturbed(0.0, scale=5.0), CFG(scale=5.0).combine(predictions(), STEPS[3]))


def test_combinations_are_made_in_the_stated_order() -> None:
    """Push, threshold, rescale, then what weakened branches add, then the norm."""
    preds = predictions()
    inner = CFG(scale=9.0).combine(preds, STEPS[3])
    inner = rescaled(thresholded(inner, preds["positive"], 0.95), preds["positive"], 0.7)
    want = inner + 2.0 * (preds["positive"] - weak())
    options = {"percentile": 0.95, "rescale": 0.7, "within": "output"}
    assert torch.allclose(perturbed(2.0, scale=9.0, **options), want, atol=1e-5)
    base = Perturbed(base=CFG(scale=9.0, **options), name="weak", weight=2.0, patch=nothing)  # type: ignore[arg-type]
    renormed = Renormed(base=base, norm=lambda x: x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1, 1))
    got = renormed.combine({**preds, "weak": weak()}, STEPS[3])
    assert torch.allclose(got, want * (renormed.norm(preds["positive"]) / renormed.norm(want)), atol=1e-5)
