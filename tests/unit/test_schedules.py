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
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in {"custom", "ays_svd"}])
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
     ("normal", 5, {"shift": -1}, "above 0")],
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
