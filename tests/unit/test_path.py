"""The noise paths: coefficients, times and predictions are exact inverses of each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffgen.errors import UsageError
from diffgen.path import PREDICTIONS, EDMPath, FlowPath, NoisePath, betas_path, mix, target, to_x0

PATHS: dict[str, NoisePath] = {
    "sd": betas_path(),
    "cosine": betas_path(kind="squaredcos_cap_v2"),
    "linear": betas_path(kind="linear", start=1e-4, end=0.02),
    "zero": betas_path(zero_snr=True),
    "flow": FlowPath(),
    "edm": EDMPath(),
}


@pytest.mark.parametrize("name", PATHS)
@given(part=st.floats(0.001, 0.999))
def test_time_and_level_are_inverses(name: str, part: float) -> None:
    path = PATHS[name]
    low, high = path.time(path.min_level), path.time(path.max_level)
    time = low + part * (high - low)
    assert path.time(path.level(time)) == pytest.approx(time, abs=1e-6 * max(abs(high), 1))


@pytest.mark.parametrize("name", PATHS)
@given(part=st.floats(0.01, 0.99))
def test_a_level_is_found_again_from_its_signal_to_noise(name: str, part: float) -> None:
    path = PATHS[name]
    level = path.min_level + part * (path.max_level - path.min_level)
    alpha, sigma = path.coefficients(level)
    assert path.level_at(math.log(alpha / sigma)) == pytest.approx(level, rel=1e-9)


@pytest.mark.parametrize("name", ["sd", "cosine", "linear", "zero"])
@given(level=st.floats(0, 5000))
def test_variance_is_preserved(name: str, level: float) -> None:
    alpha, sigma = PATHS[name].coefficients(level)
    assert alpha**2 + sigma**2 == pytest.approx(1)


def test_every_path_ends_clean() -> None:
    assert all(path.coefficients(0.0) == (1.0, 0.0) for path in PATHS.values())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", PATHS)
@given(part=st.floats(0.05, 0.9), seed=st.integers(0, 1000))
def test_the_clean_estimate_inverts_the_training_target(name: str, prediction: str, part: float, seed: int) -> None:
    path = PATHS[name]
    # Up to signal-to-noise 0.01; epsilon cannot be inverted in float32 much beyond it.
    level = path.min_level + part * (min(path.max_level, 10.0) - path.min_level)
    alpha, sigma = path.coefficients(level)
    gen = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(2, 3, generator=gen, dtype=torch.float64) for _ in range(2))
    x = mix(x0, noise, alpha, sigma)
    assert torch.allclose(to_x0(prediction, target(prediction, x0, noise, alpha, sigma), x, alpha, sigma), x0)


def test_betas_equal_the_published_table() -> None:
    from diffusers import DDPMScheduler

    for kind in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        for zero in (False, True):
            ours = betas_path(kind=kind, zero_snr=zero).alphas_cumprod
            theirs = DDPMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule=kind, rescale_betas_zero_snr=zero
            ).alphas_cumprod
            assert torch.allclose(torch.tensor(ours, dtype=torch.float32), theirs, atol=2e-6)


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(UsageError, match="epsilon, flow, v, x0"):
        to_x0("noise", torch.zeros(1), torch.zeros(1), 1.0, 1.0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="scaled_linear"):
        betas_path(kind="cosine")
