"""Makes docs/samplers.md and its picture: every sampler of the table at several step counts, same seed.

    python benchmarks/samplers_page.py [--model DIR] [--prompt TEXT] [--seed 7] [--steps 5 10 20 40]

Deterministic samplers are measured against one walk of 1,000 Heun steps on the same schedule: the root of the mean
squared difference of the final latents, over that of the reference. Stochastic ones have another picture for an end,
so they are shown and not measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import diffgen
from diffgen.checkpoints import Model
from diffgen.media import to_pixels
from diffgen.media.sheet import contact_sheet
from diffgen.pipelines import Picture, text_to_image
from diffgen.samplers import SAMPLERS
from diffgen.schedules import SCHEDULES

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCHEDULE = "trailing"  # the own one of the model in the box

HEAD = """# Samplers and schedules

This page is made by `python benchmarks/samplers_page.py` with the model in the box. The names are those that
`diffgen samplers` prints; the spellings of A1111, ComfyUI and diffusers mean the same ("DPM++ 2M Karras",
`dpmpp_2m` with `karras`, `DPMSolverMultistepScheduler`).

## The same seed

`{prompt}`, seed {seed}, schedule `{schedule}`, guidance {guidance:g}; columns are {steps} steps.

![every sampler at several step counts](samplers.webp)

## Samplers

Evaluations are calls of the network a step. The error is the distance to 1,000 steps of `heun`, as a share of its
size; `order` is the measured order of convergence (`python benchmarks/convergence.py`).

"""


def draw(model: Model, args: argparse.Namespace, sampler: str, steps: int) -> Picture:
    return text_to_image(model, args.prompt, seed=args.seed, sampler=sampler, schedule=SCHEDULE, steps=steps)[0]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root of the mean squared difference over that of `b`."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def rows_of(model: Model, args: argparse.Namespace) -> tuple[list[str], list[np.ndarray], list[str]]:
    """(table rows, pictures, labels)."""
    exact = draw(model, args, "heun", 1000).latents
    rows, pictures, labels = [], [], []
    for name, info in SAMPLERS.items():
        made = [draw(model, args, name, steps) for steps in args.steps]
        errors = ["" if info.stochastic else f"{distance(one.latents, exact):.3f}" for one in made]
        pictures += [to_pixels(one.pixels) for one in made]
        labels += [f"{name} {steps}" for steps in args.steps]
        noise = info.noise or ""
        rows.append(f"| `{name}` | {info.label} | {info.order} | {info.evaluations} | {noise} | "
                    f"{' | '.join(errors)} | {info.good_for} |")  # fmt: skip
        print(rows[-1], flush=True)
    return rows, pictures, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--prompt", default="3d emoji of a red apple")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40])
    args = parser.parse_args()
    model = diffgen.load(args.model)
    rows, pictures, labels = rows_of(model, args)
    columns = 2 * len(args.steps)
    contact_sheet(pictures, columns=columns, labels=labels).save(DOCS / "samplers.webp", quality=85, method=6)
    counts = [f"error at {steps}" for steps in args.steps]
    table = [f"| name | label | order | evaluations | noise | {' | '.join(counts)} | good for |",
             "|" + "---|" * (6 + len(counts)), *rows]  # fmt: skip
    schedules = ["| name | label | good for | settings |", "|---|---|---|---|"]
    schedules += [f"| `{name}` | {info.label} | {info.good_for} | {', '.join(info.settings)} |"
                  for name, info in SCHEDULES.items()]  # fmt: skip
    head = HEAD.format(
        prompt=args.prompt, seed=args.seed, schedule=SCHEDULE, guidance=model.family.defaults.guidance,
        steps=", ".join(map(str, args.steps)),
    )  # fmt: skip
    page = [head.rstrip(), "", *table, "", "## Schedules", "", *schedules, ""]
    (DOCS / "samplers.md").write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
