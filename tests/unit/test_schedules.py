"""Schedules: falling levels from pure noise to the end, equal to diffusers' and k-diffusion's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgen.errors import UsageError
from diffgen.path import EDMPath, FlowPath, betas_path
from diffgen.schedules import SCHEDULES, ScheduleSettings, levels, settings_from, shifted

PATHS = {"vp": betas_path(), "zero": betas_path(zero_snr=True), "flow": FlowPath(), "edm": EDMPath()}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in {"custom", "optimal", "ays_svd"}])
@given(count=st.integers(1, 60), shift=st.sampled_from([1.0, 3.0]))
def test_levels_fall_from_noise_to_the_end(name: str, path: str, count: int, shift: float) -> None:
    walk = levels(name, PATHS[path], count, ScheduleSettings(shift=shift))
    assert len(walk) == count + 1 and walk[-1] == 0
    assert all(later < earlier for earlier, later in pairwise(walk))
    assert 0 < walk[0] <= PATHS[path].max_level * shift * (1 + 1e-9)


@pytest.mark.parametrize("final", ["zero", "min"])
def test_the_end_is_zero_or_the_smallest_trained_level(final: str) -> None:
    walk = levels("leading", PATHS["vp"], 10, ScheduleSettings(offset=1, final=final))  # type: ignore[arg-type]
    assert walk[-1] == pytest.approx(0 if final == "zero" else PATHS["vp"].min_level)


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_stretched_schedules_have_their_published_form(name: str) -> None:
    path = PATHS["vp"]
    high, low, ramp = path.max_level, path.min_level, np.linspace(0, 1, 12)
    want = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    if name == "exponential":
        want = high * (low / high) ** ramp
    assert levels(name, path, 12)[:-1] == pytest.approx(list(want))


def test_flow_levels_are_those_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 9, 9).tolist())
    ours = levels("sgm_uniform", FlowPath(min_level=0.0), 9, ScheduleSettings(shift=3.0))
    assert ours == pytest.approx(theirs.sigmas.tolist(), abs=1e-6)


@given(level=st.floats(0.01, 0.99), shift=st.floats(0.2, 10))
def test_shift_multiplies_the_noise_to_signal_ratio(level: float, shift: float) -> None:
    assert shifted(FlowPath(), level, shift) == pytest.approx(shift * level / (1 + (shift - 1) * level))
    assert shifted(betas_path(), level, shift) == pytest.approx(shift * level)


@pytest.mark.parametrize(
    ("name", "count", "values", "says"),
    [("normals", 5, {}, "did you mean normal"), ("karras", 0, {}, "at least 1"), ("normal", 2000, {}, "up to 1000"),
     ("karras", 5, {"rhoo": 3}, "did you mean rho"), ("karras", 5, {"span": "x"}, "accepted: leading"),
     ("normal", 5, {"shift": -1}, "above 0"),
     ("optimal", 5, {}, "samplers --fit"), ("normal", 5, {"denoise_start": 0.8, "denoise_end": 0.4}, "must rise"),
     ("karras", 5, {"sigma_max": 900.0}, "stay on the path")],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused_with_the_choices(name: str, count: int, values: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        levels(name, PATHS["vp"], count, settings_from(name, values))


def test_published_levels_come_out_as_published() -> None:
    walk = levels("ays", PATHS["vp"], 10)
    assert walk[1:10] == pytest.approx((6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152), rel=1e-3)
    assert levels("ays_svd", EDMPath(sigma_max=700.0), 10)[0] == pytest.approx(700)


def test_levels_of_your_own() -> None:
    own = settings_from("custom", {"levels": [8.0, 2.0, 0.5]})
    assert levels("custom", PATHS["vp"], 3, own) == pytest.approx((8.0, 2.0, 0.5, 0.0))
    assert levels("custom", PATHS["vp"], 5, own)[1] == pytest.approx(4.0)
    with pytest.raises(UsageError, match="needs falling levels"):
        levels("custom", PATHS["vp"], 3)


def test_the_linear_quadratic_schedule_is_the_references() -> None:
    from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

    want = linear_quadratic_schedule(16, 0.025)
    assert levels("linear_quadratic", FlowPath(), 16)[:-1] == pytest.approx(want)


@given(border=st.floats(0.05, 0.95), count=st.integers(4, 40))
def test_two_parts_that_share_a_border_are_the_whole_walk(border: float, count: int) -> None:
    for name, path in PATHS.items():
        whole = levels("sgm_uniform", path, count)
        first = levels("sgm_uniform", path, count, ScheduleSettings(denoise_end=border))
        shares = [(path.time(path.max_level) - path.time(level)) / (path.time(path.max_level) - path.time(path.min_level))
                  for level in whole[:-1]]  # fmt: skip
        if max(shares) < border:
            assert first == whole, name
            continue
        second = levels("sgm_uniform", path, count, ScheduleSettings(denoise_start=border))
        assert (*first, *second[1:]) == whole and first[-1] == second[0], name


@pytest.mark.parametrize("name", ["karras", "exponential", "polyexponential", "kl_optimal", "cosine"])
def test_stretched_schedules_leave_pure_noise_behind_at_once(name: str) -> None:
    walk = levels(name, PATHS["zero"], 20)
    assert walk[0] == PATHS["zero"].max_level and walk[1] == pytest.approx(80) and len(walk) == 21


def test_the_cap_makes_karras_better_on_exact_data() -> None:
    """Twenty steps on a zero-terminal-SNR path, against the exact end: with the cap and without."""
    import torch

    from diffgen.contracts import History, steps_of
    from diffgen.samplers import make
    from tests.unit.test_samplers import gaussian

    path, z = PATHS["zero"], torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for settings in (ScheduleSettings(), ScheduleSettings(sigma_max=path.max_level)):
        x, history, sampler = z.clone(), History(), make("unipc")
        for step in steps_of(path, levels("karras", path, 20, settings)):
            x = sampler(gaussian(0.3, 0.5), x, step, history, torch.zeros_like)  # type: ignore[arg-type]
        errors.append(float((x - (0.3 + 0.5 * z)).abs().max()))
    assert errors[0] < 0.5 * errors[1], errors


def test_the_penultimate_level_is_left_out() -> None:
    whole = levels("karras", PATHS["vp"], 11)
    assert levels("karras", PATHS["vp"], 10, ScheduleSettings(discard_penultimate=True)) == (*whole[:10], 0.0)


def test_ends_of_your_own() -> None:
    walk = levels("karras", PATHS["vp"], 10, ScheduleSettings(sigma_min=0.1, sigma_max=10))
    assert (walk[0], walk[9]) == pytest.approx((10, 0.1))
    assert levels("exponential", PATHS["flow"], 5, ScheduleSettings(sigma_max=4.0))[0] == pytest.approx(0.8)


def test_bong_tangent_is_as_published() -> None:
    walk = levels("bong_tangent", FlowPath(min_level=0.0), 10)
    assert walk[:4] == pytest.approx((1.0, 0.9780, 0.9479, 0.9043), abs=1e-4) and 0.5 in [round(v, 6) for v in walk]
