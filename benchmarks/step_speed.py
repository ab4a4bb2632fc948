"""One denoising step in diffusers and in diffgen: the same network and weights, in one process, in turn, on one thread.

    python benchmarks/step_speed.py [--case box unet-256 unet-512 dit] [--dtype float32] [--runs 5] [--json FILE]

A step is one evaluation of both branches of classifier-free guidance as a batch of two; of the transformer, one
evaluation of one row. diffusers runs as it is, diffgen by the kernels it picked for this machine (or --kernels).
Printed are medians of CPU seconds, the ratio diffusers / diffgen with its range, and the relative error of each
against the same weights in float32 through diffusers. Weights are random but for the model in the box. A full run
needs 8 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from diffgen.kernels import machine, probe
from diffgen.kernels.choice import Choice
from diffgen.kernels.layers import patch

BOX = Path(__file__).resolve().parents[1] / "assets" / "box"
DRAWN = 1 << 21  # random numbers; weights are cut from them again and again, since drawing 860 million takes longer


def filled(network: torch.nn.Module) -> torch.nn.Module:
    """A network made on the meta device, with weights of the size that trained ones have."""
    network = network.to_empty(device="cpu").eval()
    pool = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0))
    for name, parameter in network.named_parameters():
        count = parameter.numel()
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02
        drawn = (pool * scale).repeat(count // DRAWN + 1)[:count].view(parameter.shape)
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data.copy_(torch.ones_like(parameter) if is_norm else drawn)
    return network


def unet(side: int) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """Stable Diffusion 1.5's U-Net, 860 million parameters, at latents of `side`."""
    from diffusers import UNet2DConditionModel

    cross, plain = "CrossAttn{}Block2D", "{}Block2D"
    with torch.device("meta"):
        network = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8,
            down_block_types=(*[cross.format("Down")] * 3, plain.format("Down")),
            up_block_types=(plain.format("Up"), *[cross.format("Up")] * 3),
        )  # fmt: skip
    return filled(network), _given((2, 4, side, side), (2, 77, 768), "sample")


def dit() -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """Four of the thirty blocks of Wan 2.1 1.3B, on 1,950 tokens."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        network = WanTransformer3DModel(
            num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=4, text_dim=4096,
        )  # fmt: skip
    network = filled(network)
    # Its table of rotations is a buffer, which the meta device leaves empty.
    network.rope = type(network.rope)(128, (1, 2, 2), 1024)
    return network, _given((1, 16, 3, 52, 50), (1, 512, 4096), "hidden_states")


def box() -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """The model in the box, at its own size."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(BOX / "unet", local_files_only=True).eval()
    side, width = network.config.sample_size, network.config.cross_attention_dim
    return network, _given((2, network.config.in_channels, side, side), (2, 24, width), "sample")


CASES: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, Tensor]]]] = {
    "box": box, "unet-256": lambda: unet(32), "unet-512": lambda: unet(64), "dit": dit,
}  # fmt: skip


def _given(x: tuple[int, ...], text: tuple[int, ...], name: str) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(x, generator=draw), "encoder_hidden_states": torch.randn(text, generator=draw),
        "timestep": torch.full((x[0],), 500.0),
    }  # fmt: skip


def compare(case: str, dtype: str, runs: int, kernels: str, repeat: int) -> dict[str, Any]:
    """The measurements of one case in one dtype."""
    kind = getattr(torch, dtype)
    network, given = CASES[case]()
    cast = {key: value if key == "timestep" else value.to(kind) for key, value in given.items()}
    choice = probe.choose(kind).choice if kernels == "auto" else Choice.from_text(kernels)
    with torch.inference_mode():
        # Rounded to the dtype first, so that only the arithmetic differs.
        exact = network.to(kind).float()(**{key: value.to(kind).float() for key, value in given.items()})[0]
        network.to(kind)

        def step() -> Tensor:
            return network(**cast, return_dict=False)[0]

        def ours() -> Tensor:
            with patch(choice)({"denoiser": network}):
                return step()

        def timed(run: Callable[[], Tensor]) -> float:
            start = time.process_time()
            for _ in range(repeat):
                run()
            return (time.process_time() - start) / repeat

        errors = {name: float((run().float() - exact).norm() / exact.norm()) for name, run in
                  (("diffusers", step), ("diffgen", ours))}  # fmt: skip
        apart = float((ours().float() - step().float()).abs().max())
        pairs = [(timed(step), timed(ours)) for _ in range(runs)]
    ratios = [theirs / mine for theirs, mine in pairs]
    theirs, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "case": case, "dtype": dtype, "diffusers_s": theirs, "diffgen_s": mine, "ratio": statistics.median(ratios),
        "ratios": ratios, "error_diffusers": errors["diffusers"], "error_diffgen": errors["diffgen"],
        "largest_difference": apart, "kernels": choice.to_text(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    print(
        f"{'case':10}{'dtype':10}{'diffusers':>10}{'diffgen':>9}{'ratio':>7}  {'(range)':14}error: theirs, ours; apart"
    )
    for case in args.case:
        for dtype in args.dtype:
            found = compare(case, dtype, args.runs, args.kernels, repeat=20 if case == "box" else 1)
            results.append(found)
            spread = f"({min(found['ratios']):.2f} to {max(found['ratios']):.2f})"
            print(
                f"{case:10}{dtype:10}{found['diffusers_s']:10.3f}{found['diffgen_s']:9.3f}{found['ratio']:7.2f}  "
                f"{spread:14}{found['error_diffusers']:.1e}, {found['error_diffgen']:.1e}; "
                f"{found['largest_difference']:.1e}   {found['kernels']}", flush=True,
            )  # fmt: skip
            if args.json:
                document = {**machine.fingerprint(), "runs": args.runs, "results": results}
                args.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
