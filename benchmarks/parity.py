"""How far every family and variant is from diffusers' own pipeline, with the same weights, seeds and steps.

    python benchmarks/parity.py [--quick] [--only WORDS] [--json FILE]

The checkpoints are tiny and random, made in a temporary folder; the cases are those of tests/parity. Each variant is
drawn without and with guidance, one and three at a time, in two sizes and, where it makes clips, two lengths: eight
runs, or two with --quick. Printed are the largest differences of the latents and of the pixels over these runs,
relative to the largest value where that is above 1, and the processor seconds of both libraries, on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.parity.clips import CLIPS
from tests.parity.harness import CORNERS, FEW, Variant, both, difference
from tests.parity.pictures import PICTURES

HEADS = "variant", "runs", "latents", "pixels", "diffgen s", "diffusers s"


def measured(variant: Variant, corners: Sequence[tuple[bool, int, int]]) -> dict[str, Any]:
    """The variant's row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        pair = both(variant, Path(folder))
        drawn = [pair.draw(corner) for corner in corners]
    return {
        "variant": variant.title, "runs": len(drawn),
        "latents": max(difference(mine.latents, theirs.latents) for mine, theirs in drawn),
        "pixels": max(difference(mine.pixels, theirs.pixels) for mine, theirs in drawn),
        "diffgen s": sum(mine.seconds for mine, _ in drawn), "diffusers s": sum(theirs.seconds for _, theirs in drawn),
    }  # fmt: skip


def rows(only: Sequence[str], quick: bool) -> Iterator[dict[str, Any]]:
    """The rows of the variants whose titles hold one of the words `only`; of all without any."""
    for variant in (*PICTURES, *CLIPS):
        if not only or any(word.lower() in variant.title.lower() for word in only):
            yield measured(variant, FEW if quick else CORNERS)


def line(row: dict[str, Any]) -> str:
    values = [f"{row[name]:.1e}" for name in HEADS[2:4]] + [f"{row[name]:.2f}" for name in HEADS[4:]]
    return f"| {row['variant']} | {row['runs']} | {' | '.join(values)} |"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two runs a variant instead of eight")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="variants whose name holds a word")
    parser.add_argument("--json", type=Path, help="a file for the table, which must not exist")
    args = parser.parse_args()
    if args.json and args.json.exists():
        parser.error(f"{args.json} exists already")
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    table = []
    for row in rows(args.only, args.quick):
        table.append(row)
        print(line(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")
    print(f"\nlargest: latents {max(r['latents'] for r in table):.1e}, pixels {max(r['pixels'] for r in table):.1e}")


if __name__ == "__main__":
    main()
