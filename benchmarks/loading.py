"""Loading a U-Net of SD 1.5's size: diffgen beside diffusers, and the memory it takes, in fresh processes.

    python benchmarks/loading.py [--runs 3] [--json FILE]

Makes a random U-Net of 859.5 million weights in a temporary folder, in float16 (1.7 GB), and loads it in two ways:
to bfloat16, which converts every weight, and in the dtype on disk. Peaks are above what the imports take. One
thread; the two take turns. Printed are medians, the median of the ratios diffgen / diffusers in seconds of the
processor, which other programs on the machine disturb least, and of the clock, and peak memory over the weights'
size in their target dtype.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WEIGHTS = 859_520_964


def resident() -> float:
    """The most memory this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load(library: str, folder: Path, dtype: str) -> dict[str, float]:
    """Loads in this process; seconds of the clock and of the processor, and the peak beyond the imports, bytes."""
    import torch
    from diffusers import UNet2DConditionModel

    from diffgen.checkpoints.components import load_network

    torch.set_num_threads(1)
    kind = getattr(torch, dtype)
    before, start, cpu = resident(), time.perf_counter(), time.process_time()
    if library == "diffgen":
        network = load_network(UNet2DConditionModel, folder, kind, torch.device("cpu"))
    else:
        network = UNet2DConditionModel.from_pretrained(folder, torch_dtype=kind, local_files_only=True)
    took, used = time.perf_counter() - start, time.process_time() - cpu
    assert network.dtype == kind
    return {"seconds": took, "cpu_seconds": used, "peak": resident() - before}


def make(folder: Path) -> None:
    """A random U-Net with the default configuration, which is SD 1.5's but for the text's width."""
    import torch
    from diffusers import UNet2DConditionModel

    from diffgen.checkpoints.blueprint import blueprint
    from diffgen.checkpoints.networks import empty_network
    from diffgen.checkpoints.write import Item, write_safetensors

    slot = next(slot for slot in blueprint("sd15").slots if slot.name == "unet")
    network = empty_network(UNet2DConditionModel, slot.config)
    network.save_config(folder)
    random = torch.Generator().manual_seed(0)

    def item(shape: tuple[int, ...]) -> Item:
        return Item(torch.float16, shape, lambda: (torch.randn(shape, generator=random) * 0.02).half())

    items = {name: item(tuple(value.shape)) for name, value in network.state_dict().items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", items)


def measure(library: str, folder: Path, dtype: str) -> dict[str, float]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--child", library, "--folder", str(folder), "--dtype", dtype]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Prints the figures; `--json` also writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(load(args.child, args.folder, args.dtype)))
        return
    figures = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "unet"
        folder.mkdir()
        subprocess.run([sys.executable, __file__, "--child", "make", "--folder", str(folder)], check=True)
        for dtype in ("bfloat16", "float16"):
            runs: dict[str, list[dict[str, float]]] = {"diffgen": [], "diffusers": []}
            for _ in range(args.runs):
                for library, kept in runs.items():
                    kept.append(measure(library, folder, dtype))
            figures.append(told(dtype, runs))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


def told(dtype: str, runs: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Prints and returns the medians of one dtype."""
    middle = {
        library: {key: statistics.median(run[key] for run in kept) for key in kept[0]} for library, kept in runs.items()
    }
    pairs = list(zip(runs["diffgen"], runs["diffusers"], strict=True))
    ratios = {key: statistics.median(a[key] / b[key] for a, b in pairs) for key in ("cpu_seconds", "seconds")}
    size = WEIGHTS * 2
    print(f"float16 on disk to {dtype}:")
    for library, values in middle.items():
        print(
            f"  {library:9} {values['seconds']:6.2f} s, {values['cpu_seconds']:6.2f} CPU s, peak "
            f"{values['peak'] / 2**20:6.0f} MiB = {values['peak'] / size:.2f} of the weights"
        )
    print(f"  diffgen / diffusers: {ratios['cpu_seconds']:.2f} in CPU seconds, {ratios['seconds']:.2f} on the clock")
    return {"dtype": dtype, "ratios": ratios, **middle}


if __name__ == "__main__":
    if "--child" in sys.argv and "make" in sys.argv:
        make(Path(sys.argv[sys.argv.index("--folder") + 1]))
    else:
        main()
