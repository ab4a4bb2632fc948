"""diffgen beside diffusers' StableDiffusionPipeline on the same weights, in fresh processes taken in turn.

    python benchmarks/against_diffusers.py [--model DIR] [--runs 5] [--steps 25] [--dtype float32] [--threads 1]
                                           [--command] [--json FILE]

Every run is a process of its own: import, load, draw one picture, then draw again for the time per step.
Printed are medians and the ratio diffgen / diffusers, pair by pair; below 1 diffgen is faster or smaller. With a
dtype other than float32, diffusers stays in float32, and the PSNR to its picture is printed: 40 dB and more is a
picture that nobody tells from it. --command compares `diffgen image` as a whole with a script that does the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

BOX = Path(__file__).resolve().parents[1] / "assets" / "box"
PROMPT = "3d emoji of a red apple"
FIGURES = {
    "import_s": "import, s",
    "first_picture_s": "start-up to first picture, s",
    "first_picture_cpu_s": "the same, CPU s",
    "step_ms": "time a step, ms",
    "decode_ms": "decoding, ms",
    "peak_mib": "peak memory, MiB",
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw_with_diffusers(args: argparse.Namespace) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    import torch
    from diffusers import StableDiffusionPipeline

    imported = time.perf_counter() - start
    if args.threads:
        torch.set_num_threads(args.threads)
    pipe = StableDiffusionPipeline.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), local_files_only=True, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    marks: list[float] = []

    def mark(_pipe: Any, _index: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        marks.append(time.perf_counter())
        return values

    def once() -> Any:
        marks.clear()
        return pipe(
            PROMPT, num_inference_steps=args.steps, guidance_scale=args.guidance, output_type="np",
            generator=[torch.Generator("cpu").manual_seed(7)], callback_on_step_end=mark,
        ).images[0]  # fmt: skip

    pixels = once()
    first, first_cpu = time.perf_counter() - start, time.process_time() - cpu
    once()
    return report(imported, first, first_cpu, marks, time.perf_counter(), pixels)


def draw_with_diffgen(args: argparse.Namespace) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    import diffgen
    from diffgen.pipelines import Picture, prepare, stream

    imported = time.perf_counter() - start
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    model = diffgen.load(args.model, dtype=args.dtype)
    marks: list[float] = []

    def once() -> Any:
        marks.clear()
        recipes = prepare(model, PROMPT, steps=args.steps, guidance=args.guidance, seed=7)
        for event in stream(model, recipes):
            if isinstance(event, Picture):
                return event.pixels
            marks.append(time.perf_counter())

    pixels = once()
    first, first_cpu = time.perf_counter() - start, time.process_time() - cpu
    once()
    return report(imported, first, first_cpu, marks, time.perf_counter(), pixels)


def report(imported: float, first: float, cpu: float, marks: list[float], end: float, pixels: Any) -> dict[str, Any]:
    import numpy as np

    gaps = [later - earlier for earlier, later in pairwise(marks)]
    with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
        np.save(file, pixels)
    return {
        "import_s": imported, "first_picture_s": first, "first_picture_cpu_s": cpu,
        "step_ms": 1000 * statistics.median(gaps), "decode_ms": 1000 * (end - marks[-1]), "peak_mib": peak_mib(),
        "pixels": file.name,
    }  # fmt: skip


def child(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    dtype = "float32" if kind == "diffusers" else args.dtype
    command = [sys.executable, __file__, "--child", kind, "--model", args.model, "--steps", str(args.steps),
               "--dtype", dtype, "--guidance", str(args.guidance), "--threads", str(args.threads)]  # fmt: skip
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=offline)
    return dict(json.loads(done.stdout.splitlines()[-1]))


SCRIPT = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True, safety_checker=None)
asked = dict(num_inference_steps=int(sys.argv[3]), guidance_scale=float(sys.argv[4]))
pipe(sys.argv[2], generator=torch.Generator("cpu").manual_seed(7), **asked).images[0].save(sys.argv[5])
"""


def whole(command: list[str]) -> dict[str, float]:
    """Seconds of wall and CPU time of a whole process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.perf_counter() - start, "cpu_s": spent}


def compare_commands(args: argparse.Namespace) -> dict[str, Any]:
    """From the shell to a file and back to the shell, both in turn."""
    with tempfile.TemporaryDirectory() as folder:
        told = [PROMPT, "--seed", "7", "--steps", str(args.steps), "--guidance", str(args.guidance)]
        door = "from diffgen.app.cli import main; main()"  # what the entry point `diffgen` runs
        ours = [sys.executable, "-c", door, "image", *told, "--model", args.model, "--dtype", args.dtype,
                "--force", "-o", f"{folder}/ours.png"]  # fmt: skip
        theirs = [sys.executable, "-c", SCRIPT, args.model, PROMPT, str(args.steps), str(args.guidance),
                  f"{folder}/theirs.png"]  # fmt: skip
        whole(ours), whole(theirs)  # warms the page cache for both
        pairs = [(whole(ours), whole(theirs)) for _ in range(args.runs)]
    result: dict[str, Any] = {}
    for key in ("wall_s", "cpu_s"):
        ratio = statistics.median(a[key] / b[key] for a, b in pairs)
        mine, other = (statistics.median(one[key] for one in column) for column in zip(*pairs, strict=True))
        result[key] = {"diffgen": mine, "diffusers": other, "ratio": ratio}
        print(f"the whole command, {key[:-2]:14}{mine:10.2f}{other:11.2f}{ratio:8.2f}")
    return result


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Runs both in turn and prints the table."""
    import numpy as np

    child("diffgen", args), child("diffusers", args)  # warms the page cache for both
    pairs = [(child("diffgen", args), child("diffusers", args)) for _ in range(args.runs)]
    ours, theirs = (np.load(one["pixels"]) for one in pairs[-1])
    largest = float(np.abs(ours - theirs).max())
    psnr = -10 * math.log10(max(float(np.square(ours - theirs).mean()), 1e-20))
    for pair in pairs:
        for one in pair:
            Path(one["pixels"]).unlink()
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                              "dtype": args.dtype, "steps": args.steps, "runs": args.runs,
                              "largest_pixel_difference": largest, "psnr_db": psnr}  # fmt: skip
    print(f"{'':32}{'diffgen':>10}{'diffusers':>11}{'ratio':>8}   (min to max)")
    for key, label in FIGURES.items():
        ratios = [a[key] / b[key] for a, b in pairs]
        mine, other = (statistics.median(one[key] for one in column) for column in zip(*pairs, strict=True))
        result[key] = {"diffgen": mine, "diffusers": other, "ratio": statistics.median(ratios)}
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{label:32}{mine:10.2f}{other:11.2f}{statistics.median(ratios):8.2f}   {spread}")
    print(f"largest pixel difference: {largest:.1e} (0..1); PSNR {psnr:.1f} dB to diffusers in float32")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BOX))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--command", action="store_true", help="compare whole commands")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=["diffgen", "diffusers"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps((draw_with_diffgen if args.child == "diffgen" else draw_with_diffusers)(args)))
        return
    result = compare_commands(args) if args.command else compare(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
