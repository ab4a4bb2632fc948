"""`diffgen doctor`: what this machine is, which kernels were picked for it, and why."""

from __future__ import annotations

import json as encoder
import platform
from typing import Annotated, Any

import typer

from diffgen.app.tables import print_fields, print_table

DTYPES = ("float32", "bfloat16")

Anew = Annotated[bool, typer.Option("--measure", help="Measure again, in place of what was kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def doctor(measure: Anew = False, json: Json = False) -> None:
    """Say what this machine is, and which kernels diffgen picked for it.

    Kernels are picked by running each for a moment, once for every
    processor, build of torch and number of threads; the result is kept in
    your cache folder. Another choice is given with --kernels, and
    --kernels off leaves everything to torch.

    Examples:
      diffgen doctor
      diffgen doctor --measure
      diffgen image "a fox" --kernels off
    """
    from diffgen.kernels import machine

    load = machine.Load()
    found = examine(anew=measure)
    found["threads"]["free cores"] = machine.free_cores(load)
    if json:
        print(encoder.dumps(found, indent=2))
        return
    for title in ("machine", "threads"):
        print_fields([(name, str(value)) for name, value in found[title].items()])
        print()
    for dtype, entry in found["kernels"].items():
        rows = [(case, "  ".join(f"{route} {took:.2f}" for route, took in times.items()), min(times, key=times.get))
                for case, times in entry["times"].items()]  # fmt: skip
        print_table(f"{dtype}: {entry['choice']}", ("layer", "milliseconds", "fastest"), rows)
    for number, device in enumerate(found["cuda"]):
        print_fields(
            [(f"cuda:{number}", device["name"]), *((key, str(device[key])) for key in device if key != "name")]
        )
    if not found["cuda"]:
        print("no CUDA device")


def examine(*, anew: bool = False) -> dict[str, Any]:
    """The machine, its threads, the kernels measured for each dtype, and its CUDA devices; all of it JSON values.

    Args:
        anew: measure again in any case.
    """
    import torch

    from diffgen.kernels import cuda, machine, native, probe

    name, features = machine.processor()
    memory = machine.available_memory()
    dtypes = {dtype: getattr(torch, dtype) for dtype in DTYPES}
    usable = {dtype: native.operations(kind) for dtype, kind in dtypes.items()}
    measured = {
        dtype: probe.choose(kind, anew=anew) for dtype, kind in dtypes.items() if usable[dtype] or dtype == "float32"
    }
    return {
        "machine": {
            "processor": name, "features": " ".join(features) or "none that matter",
            "free memory": "unknown" if memory is None else f"{memory / 2**30:.1f} GiB",
            "system": f"{platform.system()} {platform.machine()}, {platform.libc_ver()[0] or 'no glibc'}",
            "torch": torch.__version__, "torch kernels": torch.backends.cpu.get_cpu_capability(),
            "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",
            "packed operations": "; ".join(f"{dtype}: {', '.join(names) or 'none'}" for dtype, names in usable.items()),
            "measurements": str(machine.cache_folder() / "kernels.json"),
        },
        "threads": {"cores": machine.cores(), "used by torch": torch.get_num_threads()},
        "kernels": {
            dtype: {"choice": found.choice.to_text(), "times": found.times, "seconds": round(found.seconds, 2),
                    "rounds": found.rounds} for dtype, found in measured.items()
        },
        "cuda": [cuda.describe(device) for device in cuda.devices()],
    }  # fmt: skip
