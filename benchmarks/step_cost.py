"""What a step costs beside the network: the engine, the guidance and the sampler, with a network that costs nothing.

    python benchmarks/step_cost.py [--side 16] [--steps 50] [--repeats 9] [--path vp|edm|flow] [--only dpmpp_2m ...]
                                   [--json FILE]

The network hands out a tensor made before, so all the time is diffgen's own. Printed are CPU microseconds an
evaluation on one thread, the median of the repeats, without a negative branch and with classifier-free guidance; and,
for samplers that draw noise, the noise's own share, which torch's generator and torchsde take.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from diffgen import engine, noise
from diffgen.contracts import Branch, Conditioning, Family, Latents, NoisePath, Plan, Residuals, Step, steps_of
from diffgen.guidance import CFG
from diffgen.path import EDMPath, FlowPath, Prediction, betas_path
from diffgen.samplers import SAMPLERS, make
from diffgen.schedules import levels

PATHS: dict[str, tuple[Callable[[], NoisePath], Prediction, str]] = {
    "vp": (betas_path, "epsilon", "normal"),
    "edm": (EDMPath, "epsilon", "karras"),
    "flow": (FlowPath, "flow", "even"),
}


@dataclass(kw_only=True)
class Free:
    """A family whose network costs a look-up. Only what the engine asks for."""

    path: NoisePath
    prediction: Prediction
    outputs: dict[int, Latents]
    components: dict[str, Any] = field(default_factory=dict)
    calls: int = 0

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        self.calls += 1
        return self.outputs[x.shape[0]]

    def safer(self) -> tuple[Any, ...]:
        return ()


def plans(sampler: str, kind: str, side: int, steps: int) -> tuple[Free, dict[str, Plan]]:
    """The family, and a plan without and with guidance."""
    make_path, prediction, schedule = PATHS[kind]
    path, shape = make_path(), (1, 4, 1, side, side)
    first, later = noise.sequence([1], shape, kind=SAMPLERS[sampler].noise or "fresh")
    outputs = {rows: torch.randn(rows, *shape[1:], generator=torch.Generator().manual_seed(7)) for rows in (1, 2)}
    cond = Conditioning(text={"hidden": torch.zeros(1, 77, 64)})
    bare = Plan(
        x=first * path.coefficients(path.max_level)[1], steps=steps_of(path, levels(schedule, path, steps)),
        sampler=make(sampler), noise=later, pos=cond, neg=None, guidance=CFG(scale=1.0),
    )  # fmt: skip
    guided = replace(bare, neg=Conditioning(text={"hidden": torch.ones(1, 77, 64)}), guidance=CFG(scale=5.0))
    return Free(path=path, prediction=prediction, outputs=outputs), {"bare": bare, "cfg": guided}


def run(family: Free, plan: Plan) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    engine.finish(engine.run(cast(Family, family), plan))
    return time.process_time() - start


def addition(side: int) -> float:
    """CPU microseconds of one addition in torch, to which everything here is in proportion."""
    with torch.inference_mode():
        one, other = torch.randn(2, 1, 4, 1, side, side)
        start = time.process_time()
        for _ in range(20_000):
            one + other
    return 1e6 * (time.process_time() - start) / 20_000


def noise_share(family: Free, plan: Plan) -> float:
    """CPU seconds that drawing noise takes in one run."""
    spent = 0.0

    def factory() -> Callable[[Step], Latents]:
        source = plan.noise()

        def timed(step: Step) -> Latents:
            nonlocal spent
            start = time.process_time()
            value = source(step)
            spent += time.process_time() - start
            return value

        return timed

    engine.finish(engine.run(cast(Family, family), replace(plan, noise=factory)))
    return spent


def measure(sampler: str, args: argparse.Namespace) -> dict[str, float]:
    """CPU microseconds an evaluation: without and with guidance, and the noise's share of either."""
    family, made = plans(sampler, args.path, args.side, args.steps)
    run(family, made["cfg"])
    before = family.calls
    run(family, made["bare"])
    evaluations = family.calls - before
    runs: dict[str, Callable[[], float]] = {name: partial(run, family, plan) for name, plan in made.items()}
    runs["noise"] = partial(noise_share, family, made["bare"])
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, task in runs.items():
            taken[name].append(statistics.fmean(task() for _ in range(args.runs)))
    figures = {name: 1e6 * statistics.median(values) / evaluations for name, values in taken.items()}
    return {**figures, "evaluations": evaluations / args.steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=16, help="of the latents, 4 channels; 16 is the model in the box")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--runs", type=int, default=10, help="of all the steps, a repeat")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--path", choices=list(PATHS), default="vp")
    parser.add_argument("--only", nargs="*", default=list(SAMPLERS), metavar="SAMPLER")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()
    print(f"CPU microseconds an evaluation; path {args.path}, latents 1x4x{args.side}x{args.side}, {args.steps} steps")
    print(f"one addition in torch takes {addition(args.side):.1f} of them on this machine now")
    print(f"{'sampler':22}{'evaluations a step':>20}{'no negative':>13}{'CFG':>8}{'of it noise':>13}")
    table = {}
    for name in args.only:
        row = table[name] = measure(name, args)
        print(f"{name:22}{row['evaluations']:20.2f}{row['bare']:13.1f}{row['cfg']:8.1f}{row['noise']:13.1f}")
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
