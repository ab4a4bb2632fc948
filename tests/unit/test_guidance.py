"""Guidance: the published formulas, and nothing at all at the neutral setting."""

from __future__ import annotations

import pytest
import torch

from diffgen.contracts import Conditioning, steps_of
from diffgen.errors import UsageError
from diffgen.guidance import CFG
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
    assert torch.equal(CFG(scale=5.0).combine(preds, STEPS[0]), want)


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
