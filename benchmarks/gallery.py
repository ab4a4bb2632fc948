"""Draws the gallery: every line of assets/gallery/prompts.txt at its own fixed seed, on one sheet.

    python benchmarks/gallery.py [--model DIR] [--seed 100] [-o assets/gallery/box.webp]

The seed of line k is --seed + k. Nothing is chosen or left out: what the model draws is what is shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import diffgen
from diffgen.media import to_pixels
from diffgen.media.sheet import contact_sheet
from diffgen.pipelines import text_to_image

GALLERY = Path(__file__).resolve().parents[1] / "assets" / "gallery"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--prompts", type=Path, default=GALLERY / "prompts.txt")
    parser.add_argument("-o", "--output", type=Path, default=GALLERY / "box.webp")
    args = parser.parse_args()
    model = diffgen.load(args.model)
    prompts = args.prompts.read_text(encoding="utf-8").split("\n")
    prompts = [prompt for prompt in prompts if prompt.strip()]
    pictures = [
        to_pixels(text_to_image(model, prompt, seed=args.seed + k)[0].pixels) for k, prompt in enumerate(prompts)
    ]
    contact_sheet(pictures, columns=8, labels=prompts).save(args.output, quality=90, method=6)
    print(f"{len(prompts)} pictures on {args.output}")


if __name__ == "__main__":
    main()
