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
    """The state after a step. `x0` is the latest clean estimate; `notes` says what was retried so far."""

    step: Step
    x: Latents
    x0: Latents
    notes: tuple[str, ...] = ()


def _residuals(controls: Sequence[Control], x: Latents, step: Step, branch: Branch) -> Residuals:
    total: dict[str, torch.Tensor] = {}
    for control in controls:
        for name, value in control.residuals(x, step, branch).items():
            total[name] = total[name] + value if name in total else value
    return total


def _within(branch: Branch, step: Step) -> Branch:
    """The branch as it is for the part of the latents that is being predicted."""
    return branch if step.window is None else replace(branch, cond=branch.cond.within(step.window))


class _Estimator:
    """The clean estimate at a point: predict every branch, then join them in the space the guidance asks for."""

    def __init__(self, family: Family, plan: Plan) -> None:
        self.family, self.plan, self.guidance = family, plan, plan.guidance.fresh()
        self.joined: dict[tuple[int, ...], tuple[Sequence[Conditioning], Conditioning | None]] = {}

    def __call__(self, x: Latents, step: Step) -> Latents:
        preds: dict[str, Latents] = {}
        branches = self.guidance.branches(step, self.plan.pos, self.plan.neg)
        for _, group in groupby(branches, key=lambda branch: id(branch.patch)):
            preds |= self._predict(x, step, list(group))

        def clean(out: Latents) -> Latents:
            return to_x0(self.family.prediction, out, x, step.alpha, step.sigma)

        if self.guidance.space == "x0":
            return self.guidance.combine({name: clean(out) for name, out in preds.items()}, step)
        return clean(self.guidance.combine(preds, step))

    def _predict(self, x: Latents, step: Step, group: Sequence[Branch]) -> dict[str, Latents]:
        """Predictions of branches that share a patch: in one batch where their conditioning has one shape."""
        family, controls = self.family, self.plan.controls
        with ExitStack() as stack:
            if group[0].patch is not None:
                stack.enter_context(group[0].patch(family.components))
            together = self._together([branch.cond for branch in group]) if len(group) > 1 else None
            if together is None:
                parts = (_within(branch, step) for branch in group)
                return {b.name: family.predict(x, step, b, _residuals(controls, x, step, b)) for b in parts}
            joined = _within(Branch(name="+".join(branch.name for branch in group), cond=together), step)
            many = x.repeat(len(group), *[1] * (x.ndim - 1))
            out = family.predict(many, step, joined, _residuals(controls, many, step, joined))
            return dict(zip((branch.name for branch in group), out.chunk(len(group)), strict=True))

    def _together(self, conds: Sequence[Conditioning]) -> Conditioning | None:
        """One conditioning for all, or None where their shapes differ. Made once: most stay the same all the way."""
        key = tuple(id(cond) for cond in conds)
        if key not in self.joined:
            fits = all(conds[0].joins(cond) for cond in conds)
            # The parts are kept beside it, so that their ids cannot be given to others.
            self.joined[key] = conds, Conditioning.join(conds) if fits else None
        return self.joined[key][1]


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
            while not math.isfinite(float(latest.sum())):
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
        x, history, noise = plan.x, History(), plan.noise()
        for step in plan.steps:
            # Not around the yield: the mode belongs to the thread, and would leak into the caller.
            with torch.inference_mode():
                x = plan.sampler(denoise, x, step, history, noise)
            yield Snapshot(step=step, x=x, x0=latest, notes=tuple(notes))


def finish(snapshots: Iterator[Snapshot]) -> Snapshot:
    """Runs to the end and returns the last snapshot. The plan must have at least one step."""
    last = None
    for last in snapshots:  # noqa: B007
        pass
    if last is None:
        raise ValueError("the plan has no steps")
    return last
