"""A clip continued again and again, with its noise and colours anchored and without: how far it drifts, how joins show.

    python benchmarks/extending.py                          # the model in the box with its motion module
    python benchmarks/extending.py --model sd15/ --motion mm/ --prompt "a red boat on a lake" --times 4

Printed for each prompt and seed: the distance of the colours of the last stretch from the first clip's (steps of
0..255), and the warping error over the joins as a multiple of that elsewhere (diffgen.clip_quality). The two
variants are drawn from the same first clip. Numbers of other models and prompts differ; take several seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch

import diffgen
from diffgen import clip_quality as quality
from diffgen.checkpoints import Model
from diffgen.pipelines import extend, text_to_video

PROMPTS = ["3d emoji of a waving hand", "3d emoji of a cat", "3d emoji of a rocket"]


def continued(model: Model, first: np.ndarray, prompt: str, seed: int, times: int, steps: int, anchored: bool) -> dict:
    """Drift and joins after `times` extensions of `first`."""
    clip, joins = first, []
    for k in range(times):
        joins.append(len(clip))
        # Without anchors each stretch has noise of its own, as a user gets who extends without thinking of seeds.
        own = seed if anchored else seed + 1 + k
        clip = extend(model, clip, prompt, seed=own, steps=steps, anchored=anchored)[0].pixels
    errors, lengths = quality.warping(clip)
    inside = [error for k, error in enumerate(errors) if k + 1 not in joins]
    return {
        "frames": len(clip), "drift": quality.apart(first, clip[joins[-1] :]), "join": quality.join(errors, joins),
        "warping_inside": float(np.mean(inside)), "motion": float(np.mean(lengths)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="box")
    parser.add_argument("--motion", default="box")
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--frames", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = diffgen.load(options.model, motion=options.motion)
    found: dict[bool, list[dict]] = {True: [], False: []}
    for prompt in options.prompt or PROMPTS:
        for seed in range(options.seeds):
            begun = time.process_time()
            first = text_to_video(model, prompt, frames=options.frames, seed=seed, steps=options.steps)[0].pixels
            for anchored in (True, False):
                row = continued(model, first, prompt, seed, options.times, options.steps, anchored)
                found[anchored].append(row)
                print(json.dumps({"prompt": prompt, "seed": seed, "anchored": anchored, **row}), flush=True)
            print(f"  {time.process_time() - begun:.0f} CPU seconds", flush=True)
    for anchored, rows in found.items():
        drift, join = (statistics.median(row[name] for row in rows) for name in ("drift", "join"))
        name = "anchored" if anchored else "not anchored"
        print(f"{name}: median drift {drift:.2f} of 255, median join {join:.2f} x inside")


if __name__ == "__main__":
    main()
