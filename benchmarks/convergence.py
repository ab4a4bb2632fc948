"""Measured order of convergence: sampler x path, on problems whose exact solution is known.

    python benchmarks/convergence.py [--sampler NAME ...] [--json FILE]

Four paths (VP with a network that predicts epsilon, VP at zero terminal SNR with v, EDM, flow), each with Gaussian and
Gaussian-mixture data, mild and stiff (`benchmarks/exact.py` holds them).

Deterministic samplers are compared with the exact end of the probability-flow ODE over a part of the walk. The order
is minus the slope of ln(error) over ln(steps) from 192 to 384 steps, with the history full; "cold" is the same for a
whole run of 24 to 96 steps, whose first steps have no history yet. Samplers whose formula supposes even steps walk
evenly in the level, from 384 to 768 steps; all others evenly in lambda.

Stochastic samplers are judged by the mean and covariance of what they make. On Gaussian data both are computed without
sampling: the weak order is the slope of their error from 20 to 80 steps. On the mixture 20,000 samples are drawn with
160 steps; the errors are in units of the data's standard deviation and variance, and estimated to about 0.01.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.exact import PATHS, PROBLEMS, coupled_moments, moments_error, ode_error, order_of
from diffgen.samplers import SAMPLERS

FULL, EVEN, COLD, WEAK = (192, 384), (384, 768), (24, 48, 96), (20, 40, 80)
# Variants of a sampler beside its defaults: (sampler, settings, order).
VARIANTS: list[tuple[str, dict[str, Any], int]] = [
    ("unipc", {"order": 1}, 2), ("unipc", {"order": 3}, 4), ("unipc", {"variant": "bh1"}, 3),
    ("dpmpp_2m", {"variant": "heun"}, 2), ("dpmpp_2s", {"order": 3, "variant": "heun"}, 3), ("deis", {"order": 2}, 2),
    ("ipndm", {"order": 2}, 2), ("lms", {"order": 3}, 3), ("dpmpp_3m_sde", {"eta": 0.0, "variant": "exact"}, 3),
    ("sa_solver", {"eta": 0.0, "order": 2, "corrector_order": 2, "variant": "simple"}, 2),
    ("sa_solver", {"eta": 0.0, "order": 2, "corrector_order": 0}, 2),
]  # fmt: skip
# What adds noise to a deterministic sampler: (sampler, settings, weak order).
NOISY: list[tuple[str, dict[str, Any], int]] = [
    ("euler", {"s_churn": 3.0}, 1), ("heun", {"s_churn": 3.0}, 2), ("ddim", {"eta": 1.0}, 1),
    ("res_multistep", {"eta": 1.0}, 1), ("dpmpp_2m_sde", {"variant": "heun"}, 2),
    ("dpmpp_3m_sde", {"variant": "exact"}, 2),
]  # fmt: skip
# Samplers that jump to the end and back: for networks distilled to give the end of the ODE, not E[x0 | x].
JUMPS = ("lcm", "tcd")


def deterministic() -> list[tuple[str, dict[str, Any], int]]:
    """(sampler, settings, stated order) of all that have a deterministic form; the SDE samplers at eta 0."""
    rows: list[tuple[str, dict[str, Any], int]] = []
    for name, info in SAMPLERS.items():
        if not info.stochastic:
            rows.append((name, {}, info.order))
        elif "eta" in info.settings:
            rows.append((name, {"eta": 0.0}, info.order))
    return [*rows, *VARIANTS]


def stochastic() -> list[tuple[str, dict[str, Any], int]]:
    """(sampler, settings, stated weak order) of all that draw noise and converge."""
    rows = [(name, {}, info.weak) for name, info in SAMPLERS.items() if info.stochastic and name not in JUMPS]
    return [*rows, *NOISY]


def measured(name: str, settings: dict[str, Any], where: str, problem: str) -> float:
    """The order with a full history."""
    info = SAMPLERS[name]
    counts = EVEN if info.even else FULL
    settings = {**settings, **({"finish": "full"} if "finish" in info.settings else {})}
    errors = [
        ode_error(name, settings, where, PROBLEMS[problem], count, even=info.even, before=6) for count in counts
    ]
    return order_of(errors, counts)


def cold(name: str, settings: dict[str, Any], where: str = "flow", problem: str = "mixture, mild") -> float:
    """The order of a whole run."""
    even = SAMPLERS[name].even
    return order_of([ode_error(name, settings, where, PROBLEMS[problem], n, even=even, before=0) for n in COLD], COLD)


def with_steps(name: str, settings: dict[str, Any], count: int) -> dict[str, Any]:
    """The settings for `count` steps: what walks again within a step walks with as many, and inside the ends."""
    return settings | ({"restart_steps": count, "restart_min": 1.0} if name == "restart" else {})


def weak(name: str, settings: dict[str, Any], where: str, stiff: bool) -> tuple[float, float, float]:
    """(weak order, error of the mean, error of the covariance) on Gaussian data, the errors at the most steps."""
    found = [moments_error(name, with_steps(name, settings, n), where, n, stiff=stiff) for n in WEAK]
    return order_of([max(both) for both in found], WEAK), *found[-1]


def on_mixture(name: str, settings: dict[str, Any], where: str) -> tuple[float, float]:
    """(error of the mean over the standard deviation, relative error of the variance) at the most steps."""
    problem = PROBLEMS["mixture, mild"]
    mean, variance = coupled_moments(name, with_steps(name, settings, 40), where, problem, (160,))[-1]
    path, ratio = PATHS[where][0], problem.ends[1]
    wanted, spread = problem.moments(*path.coefficients(path.level_at(-math.log(ratio))))
    return (mean - wanted) / math.sqrt(spread), variance / spread - 1


def _label(name: str, settings: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value:g}" if isinstance(value, (int, float)) else f"{key}={value}"
                             for key, value in settings.items())])  # fmt: skip


def _print_deterministic(chosen: list[str], found: list[dict[str, Any]]) -> None:
    columns = [f"{where} / {problem}" for where in PATHS for problem in PROBLEMS]
    print("order with a full history; columns: " + "; ".join(f"{k + 1} {name}" for k, name in enumerate(columns)))
    print(f"{'sampler':44}{'stated':>7}{'cold':>6} " + "".join(f"{k + 1:>5}" for k in range(len(columns))))
    for name, settings, order in deterministic():
        if name in chosen:
            orders = [measured(name, settings, where, problem) for where in PATHS for problem in PROBLEMS]
            start = cold(name, settings)
            good = all(abs(one - order) <= 0.2 for one in orders)
            print(f"{_label(name, settings):44}{order:7}{start:6.2f} " + "".join(f"{one:5.2f}" for one in orders)
                  + ("" if good else "  <-- off by more than 0.2"), flush=True)  # fmt: skip
            found.append({"sampler": _label(name, settings), "stated": order, "cold": start, "orders": orders})


def _print_stochastic(chosen: list[str], found: list[dict[str, Any]]) -> None:
    print("\nGaussian, mild and stiff: weak order, errors of mean and covariance (80 steps); mixture: the errors (160)")
    print(f"{'sampler':30}{'stated':>7}  " + "".join(f"{where:^58}" for where in PATHS))
    for name, settings, order in stochastic():
        if name in chosen:
            cells = {}
            for where in PATHS:
                mild, stiff = weak(name, settings, where, False), weak(name, settings, where, True)
                cells[where] = (*mild, *stiff, *on_mixture(name, settings, where))
            shown = "".join(f"{a:5.2f} {b:.0e} {c:.0e} {d:5.2f} {e:.0e} {f:.0e} {g:+.3f} {h:+.3f}   "
                            for a, b, c, d, e, f, g, h in cells.values())  # fmt: skip
            print(f"{_label(name, settings):30}{order:7}  {shown}", flush=True)
            found.append({"sampler": _label(name, settings), "stated": order, "weak": cells})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", nargs="*", default=list(SAMPLERS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    _print_deterministic(args.sampler, found)
    _print_stochastic(args.sampler, found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
