"""Draws the gallery of clips with the box and its motion module, and measures them beside real ones and stills.

    python benchmarks/clip_gallery.py [--model DIR] [--motion DIR] [--dtype bf16] [--seed 200] [--data DIR]

Line k of assets/gallery/clips.txt becomes an animated WebP in assets/gallery/clips, at the seed --seed + k. Nothing
is chosen or left out. assets/gallery/clips.webp shows all frames, to be looked at one by one.

Each clip is measured (`diffgen.clip_quality`), and so are as many pictures of the same prompt drawn independently,
and, with --data (built with: diffgen train clips), the real animation of the same thing.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np

import diffgen
from diffgen.clip_quality import ClipScores, score
from diffgen.media import save_clip, to_pixels
from diffgen.media.sheet import contact_sheet
from diffgen.pipelines import text_to_image, text_to_video

GALLERY = Path(__file__).resolve().parents[1] / "assets" / "gallery"
FRAMES = 16
MEASURES = ("flicker", "warping_error", "motion", "loop_closure")


def slug(prompt: str) -> str:
    return re.sub(r"[^a-z]+", "-", prompt.lower().removeprefix("3d emoji of ").removeprefix("a ")).strip("-")


def real_clips(folder: Path) -> dict[str, np.ndarray]:
    """The real animations by their labels, float32 [FRAMES, height, width, 3] in 0..1."""
    from diffgen.train.motion_data import ClipSet

    clips = ClipSet(folder)
    step = clips.clips.shape[1] // FRAMES
    return {
        record.label: clips.clips[k][::step].astype(np.float32) / 255
        for k, record in enumerate(clips.records)
        if record.kind == "drawn"
    }


def real_of(prompt: str, real: dict[str, np.ndarray]) -> np.ndarray | None:
    """The real animation whose label, of all that are in the prompt, is the longest."""
    found = [label for label in real if label.removesuffix(" face") in prompt or label in prompt]
    return real[max(found, key=lambda label: (label in prompt, len(label)))] if found else None


def row(title: str, scores: list[ClipScores]) -> str:
    means = [float(np.mean([getattr(one, name) for one in scores])) for name in MEASURES]
    return f"| {title} | {len(scores)} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--motion", default="box")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--prompts", type=Path, default=GALLERY / "clips.txt")
    parser.add_argument("--data", type=Path, help="folder of the real animations")
    parser.add_argument("-o", "--output", type=Path, default=GALLERY / "clips", help="folder of the clips")
    args = parser.parse_args()
    prompts = [line for line in args.prompts.read_text(encoding="utf-8").split("\n") if line.strip()]
    moving = diffgen.load(args.model, motion=args.motion, dtype=args.dtype)
    still = diffgen.load(args.model, dtype=args.dtype)
    real = real_clips(args.data) if args.data else {}
    args.output.mkdir(parents=True, exist_ok=True)
    scores: dict[str, list[ClipScores]] = {"drawn": [], "independent pictures": [], "real animation": []}
    sheet, seconds = [], []
    print("| clip | flicker | warping error | motion | loop closure |\n|---|---|---|---|---|")
    for k, prompt in enumerate(prompts):
        began = time.process_time()
        clip = text_to_video(moving, prompt, seed=args.seed + k, frames=FRAMES)[0]
        seconds.append(time.process_time() - began)
        save_clip(args.output / f"{slug(prompt)}.webp", clip.pixels, fps=8, recipe=clip.recipe, overwrite=True)
        sheet += [to_pixels(frame) for frame in clip.pixels]
        scores["drawn"].append(found := score(clip.pixels))
        print(f"| {prompt} | " + " | ".join(f"{getattr(found, name):.2f}" for name in MEASURES) + " |", flush=True)
        pictures = text_to_image(still, prompt, seed=args.seed + k, count=FRAMES, batch=FRAMES)
        scores["independent pictures"].append(score(np.stack([picture.pixels for picture in pictures])))
        if (same := real_of(prompt, real)) is not None:
            scores["real animation"].append(score(same))
    contact_sheet(sheet, columns=FRAMES).resize((FRAMES * 72, len(prompts) * 72)).save(
        args.output.with_suffix(".webp"), quality=85, method=6
    )
    print("\n| mean of | clips | flicker | warping error | motion | loop closure |\n|---|---|---|---|---|---|")
    for title, rows in scores.items():
        if rows:
            print(row(title, rows))
    print(f"\n{np.mean(seconds):.1f} CPU seconds a clip of {FRAMES} frames, everything but loading")


if __name__ == "__main__":
    main()
