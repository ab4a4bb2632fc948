"""The loop: repeatable, cancellable, batched where it can be, and never a black picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from diffgen import engine, noise
from diffgen.contracts import Branch, Components, Conditioning, Latents, Plan, Step, steps_of
from diffgen.errors import NumericalError
from diffgen.guidance import CFG
from diffgen.path import betas_path
from diffgen.samplers import make
from diffgen.schedules import levels

PATH = betas_path()
SHAPE = (2, 4, 1, 4, 4)


@dataclass
class Toy:
    """A family whose network is a formula, so that every number can be checked."""

    path: Any = PATH
    prediction: str = "epsilon"
    components: Components = field(default_factory=lambda: {"denoiser": {"broken": False}})
    rungs: int = 0
    calls: list[tuple[str, int]] = field(default_factory=list)
    nan_from: int = 10**9

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Mapping[str, Any]) -> Latents:
        self.calls.append((branch.name, x.shape[0]))
        out = torch.tanh(x) * branch.cond.text["hidden"].mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        broken = step.index >= self.nan_from and not self.components["denoiser"]["broken"]
        return out * math.nan if broken else out + sum(residuals.values())

    def safer(self) -> tuple[Any, ...]:
        @contextmanager
        def rung(components: Components) -> Iterator[None]:
            components["denoiser"]["broken"] = True
            try:
                yield
            finally:
                components["denoiser"]["broken"] = False

        return tuple((f"rung {k}", rung) for k in range(self.rungs))


def cond(value: float, tokens: int = 3) -> Conditioning:
    return Conditioning(text={"hidden": torch.full((SHAPE[0], tokens, 2), value)})


def plan(**changes: Any) -> Plan:
    first, later = noise.sequence([1, 2], SHAPE)
    values = dict(
        x=first, steps=steps_of(PATH, levels("normal", PATH, 6)), sampler=make("euler_ancestral"), noise=later,
        pos=cond(1.0), neg=cond(0.2), guidance=CFG(scale=3.0),
    )  # fmt: skip
    return Plan(**(values | changes))  # type: ignore[arg-type]


def last(toy: Toy, made: Plan) -> engine.Snapshot:
    return list(engine.run(toy, made))[-1]  # type: ignore[arg-type]


def test_a_plan_run_twice_gives_the_same_latents() -> None:
    made = plan()
    assert torch.equal(last(Toy(), made).x, last(Toy(), made).x)


def test_branches_of_one_shape_share_a_call() -> None:
    toy = Toy()
    joined = last(toy, plan())
    assert toy.calls == [("positive+negative", 4)] * 6
    apart = Toy()
    separate = last(apart, plan(neg=cond(0.2, tokens=5)))
    assert apart.calls == [("positive", 2), ("negative", 2)] * 6
    assert torch.allclose(joined.x, separate.x, atol=1e-6)


def test_every_step_is_yielded_and_closing_cancels() -> None:
    toy = Toy()
    steps = engine.run(toy, plan())  # type: ignore[arg-type]
    seen = [next(steps).step.index for _ in range(3)]
    steps.close()
    assert seen == [0, 1, 2] and len(toy.calls) == 3
    assert not torch.is_inference_mode_enabled()


def test_nan_is_retried_on_the_next_rung_and_reported() -> None:
    made = plan()
    toy = Toy(rungs=1, nan_from=3)
    end = last(toy, made)
    assert end.notes == ("step 4: NaN, retried with rung 0",)
    assert torch.equal(end.x, last(Toy(), made).x)
    assert toy.components["denoiser"]["broken"] is False


def test_nan_with_no_rung_left_names_the_step() -> None:
    with pytest.raises(NumericalError, match="step 3 of 6"):
        last(Toy(nan_from=2), plan())


def test_patches_are_undone_even_when_cancelled() -> None:
    state: list[str] = []

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        state.append("in")
        try:
            yield
        finally:
            state.append("out")

    steps = engine.run(Toy(), plan(patches=(patch,)))  # type: ignore[arg-type]
    next(steps)
    steps.close()
    assert state == ["in", "out"]


def test_controls_add_up_and_wrappers_surround() -> None:
    class One:
        def residuals(self, x: Latents, step: Step, branch: Branch) -> dict[str, float]:
            return {"mid": 0.5}

    seen = []

    def wrapper(denoise: Any) -> Any:
        def wrapped(x: Latents, step: Step) -> Latents:
            seen.append(step.index)
            return denoise(x, step)

        return wrapped

    with_two = last(Toy(), plan(controls=(One(), One()), wrappers=(wrapper,)))
    assert seen == list(range(6))
    assert not torch.allclose(with_two.x, last(Toy(), plan()).x)


def test_guidance_in_either_space_is_the_same_where_it_is_linear() -> None:
    made = plan(sampler=make("euler"))
    clean = plan(sampler=make("euler"), guidance=CFG(scale=3.0, within="x0"))
    assert torch.allclose(last(Toy(), made).x, last(Toy(), clean).x, atol=1e-4)
