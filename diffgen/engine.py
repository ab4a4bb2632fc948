"""The one loop. Everything a family, a task or a trick changes reaches it through the plan.

`run` is a generator that yields after each step, so progress, previews, cancelling and checkpoints need no
callbacks: the caller simply stops asking.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from diffgen.contracts import (
    Branch,
    Conditioning,
    Control,
    Denoiser,
    Family,
    History,
    Latents,
    Plan,
    Residuals,
    Step,
)
from diffgen.errors import NumericalError
from diffgen.path import to_x0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state after a step. `x0` is the latest clean estimate; `notes` says what was retried so far.

    `predictions` counts those made so far, one a branch, and `saved` those that adaptive guidance left out.
    """

    step: Step
    x: Latents
    x0: Latents
    notes: tuple[str, ...] = ()
    predictions: int = 0
    saved: int = 0

    @property
    def extra(self) -> dict[str, int]:
        """What a recipe should tell of the run beside its notes: nothing, but for adaptive guidance."""
        return {"predictions": self.predictions, "predictions_saved": self.saved} if self.saved else {}


NO_RESIDUALS: Residuals = {}


def _residuals(controls: Sequence[Control], x: Latents, step: Step, branch: Branch) -> Residuals:
    total: dict[str, torch.Tensor] = {}
    for control in controls:
        for name, value in control.residuals(x, step, branch).items():
            total[name] = total[name] + value if name in total else value
    return total


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One run of the network: branches under one patch, in one batch where their conditioning has one shape."""

    names: tuple[str, ...]
    branch: Branch


def _calls(branches: Sequence[Branch]) -> tuple[_Call, ...]:
    """The runs of the network that answer `branches`."""
    calls: list[_Call] = []
    for patch, group in groupby(branches, key=lambda branch: branch.patch):
        same = list(group)
        if len(same) > 1 and all(same[0].cond.joins(branch.cond) for branch in same):
            names = tuple(branch.name for branch in same)
            together = Conditioning.join([branch.cond for branch in same])
            calls.append(_Call(names=names, branch=Branch(name="+".join(names), cond=together, patch=patch)))
        else:
            calls += [_Call(names=(branch.name,), branch=branch) for branch in same]
    return tuple(calls)


class _Estimator:
    """The clean estimate at a point: predict every branch, then join them in the space the guidance asks for."""

    def __init__(self, family: Family, plan: Plan) -> None:
        self.family, self.plan, self.guidance = family, plan, plan.guidance.fresh()
        self.prediction, self.in_x0 = family.prediction, plan.guidance.space == "x0"
        self.predictions = 0
        self.asked: tuple[Branch, ...] = ()
        self.calls: tuple[_Call, ...] = ()
        conds = [cond for cond in (plan.pos, plan.neg) if cond is not None]
        self.turns = sorted({0.0, *(start for cond in conds for start, _ in cond.turns)})
        self.now: tuple[Conditioning, Conditioning | None] = plan.pos, plan.neg

    def __call__(self, x: Latents, step: Step) -> Latents:
        branches = self.guidance.branches(step, *self._told(step))
        if branches != self.asked:  # seldom: most stay the same all the way
            self.asked, self.calls = branches, _calls(branches)
        self.predictions += len(branches)
        preds: dict[str, Latents] = {}
        for call in self.calls:
            outs = self._predict(call, x, step)
            preds.update(zip(call.names, outs, strict=True))
        alpha, sigma = step.alpha, step.sigma
        if self.in_x0:
            preds = {name: to_x0(self.prediction, out, x, alpha, sigma) for name, out in preds.items()}
            return self.guidance.combine(preds, step)
        return to_x0(self.prediction, self.guidance.combine(preds, step), x, alpha, sigma)

    def _told(self, step: Step) -> tuple[Conditioning, Conditioning | None]:
        """The positive and negative conditioning as they hold at this step; the same objects while they do."""
        if self.turns and self.turns[0] <= step.index / step.count:
            part = self.turns.pop(0)
            while self.turns and self.turns[0] <= step.index / step.count:
                part = self.turns.pop(0)
            pos, neg = self.plan.pos, self.plan.neg
            self.now = pos.at(part), None if neg is None else neg.at(part)
        return self.now

    def _predict(self, call: _Call, x: Latents, step: Step) -> Sequence[Latents]:
        """The predictions of the call's branches, in their order."""
        family, branch, count = self.family, call.branch, len(call.names)
        if step.window is not None:
            branch = replace(branch, cond=branch.cond.within(step.window))
        many = x if count == 1 else torch.cat([x] * count)
        residuals = _residuals(self.plan.controls, many, step, branch) if self.plan.controls else NO_RESIDUALS
        if branch.patch is None:
            out = family.predict(many, step, branch, residuals)
        else:
            with branch.patch(family.components):
                out = family.predict(many, step, branch, residuals)
        return (out,) if count == 1 else out.chunk(count)


def run(family: Family, plan: Plan) -> Iterator[Snapshot]:
    """Walks `plan.steps` and yields after each.

    NaN and infinity are caught at the evaluation where they appear. That evaluation is repeated on the next of
    `family.safer()`, which then stays for the rest of the run, and the snapshot's notes say so.

    Raises:
        NumericalError: no safer setting is left.
    """
    notes: list[str] = []
    ladder = iter(family.safer())
    estimate = _Estimator(family, plan)
    latest = plan.x
    with ExitStack() as stack:
        for patch in plan.patches:
            stack.enter_context(patch(family.components))

        def evaluate(x: Latents, step: Step) -> Latents:
            nonlocal latest
            latest = estimate(x, step)
            # A sum is finite unless a part is not, or the parts are so large that the picture is lost anyway.
            while not math.isfinite(latest.sum().item()):
                rung = next(ladder, None)
                if rung is None:
                    raise NumericalError(
                        f"the network gave NaN or infinity at step {step.index + 1} of {step.count}, "
                        f"and no safer setting is left; the weights are damaged or the guidance is too high"
                    )
                notes.append(f"step {step.index + 1}: NaN, retried with {rung[0]}")
                stack.enter_context(rung[1](family.components))
                latest = estimate(x, step)
            return latest

        denoise: Denoiser = evaluate
        for wrapper in plan.wrappers:
            denoise = wrapper(denoise)
        x, history, noise, inference = plan.x, History(), plan.noise(), torch.inference_mode()
        for step in plan.steps:
            # Not around the yield: the mode belongs to the thread, and would leak into the caller.
            with inference:
                x = plan.sampler(denoise, x, step, history, noise)
            saved = getattr(estimate.guidance, "saved", 0)
            yield Snapshot(step=step, x=x, x0=latest, notes=tuple(notes), predictions=estimate.predictions, saved=saved)


def finish(snapshots: Iterator[Snapshot]) -> Snapshot:
    """Runs to the end and returns the last snapshot. The plan must have at least one step."""
    last = None
    for last in snapshots:  # noqa: B007
        pass
    if last is None:
        raise ValueError("the plan has no steps")
    return last
