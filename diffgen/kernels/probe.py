"""Which kernels are fastest on this machine: found by running each on a few shapes, once, and kept.

A rule by name of processor would be wrong: with bfloat16 units of one make the library's attention is the fastest
there is, with those of another its own products are three times faster.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgen import attention
from diffgen.kernels import machine, native
from diffgen.kernels.choice import Choice

FORMAT = 1
BUDGET, LIMIT = 0.8, 2.5  # seconds a dtype, of computing and by the clock; two rounds are made in any case
MARGIN = 1.05  # how much faster another route must be to be taken
# The own routes of attention round more in low precision, and catching the call costs some microseconds.
MARGIN_ATTENTION = 1.25


Run = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The choice for one dtype, and why: {case: {route: milliseconds}}."""

    choice: Choice
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    rounds: int = 0


def measure(dtype: torch.dtype, budget: float = BUDGET) -> Measured:
    """Times every route that is usable here in turn, again and again until `budget` seconds of computing are over."""
    start, computing = time.perf_counter(), time.thread_time()

    def go_on() -> bool:
        return time.thread_time() - computing < budget and time.perf_counter() - start < LIMIT

    with torch.inference_mode():
        cases = {name: routes for name, routes in _cases(dtype).items() if len(routes) > 1}
        best: dict[str, dict[str, float]] = {name: {} for name in cases}
        rounds = 0
        while rounds < 2 or (rounds < 8 and go_on()):
            for name, routes in cases.items():
                for route, run in routes.items():
                    # Time of this thread alone: what other programs take meanwhile is not counted.
                    before = time.thread_time()
                    run()
                    took = 1000 * (time.thread_time() - before)
                    best[name][route] = min(took, best[name].get(route, took))
            rounds += 1
    seconds = time.perf_counter() - start
    return Measured(choice=decide(best), times=best, seconds=seconds, rounds=rounds)


def decide(times: Mapping[str, Mapping[str, float]]) -> Choice:
    """The choice that measured times, {case: {route: milliseconds}}, stand for. Cases "linear", "conv" and "blocks"
    may be several, named such as "conv 1x1"; their times are added."""
    sums: dict[str, dict[str, float]] = {}
    for case, routes in times.items():
        part = sums.setdefault(case.split()[0], {})
        for route, took in routes.items():
            part[route] = part.get(route, 0.0) + took
    found: dict[str, Any] = {
        name: _winner(sums[name], "plain", MARGIN) for name in ("linear", "conv", "blocks") if name in sums
    }
    own: dict[str, Any] = {
        name: _winner(sums[name], "library", MARGIN_ATTENTION) for name in attention.CLASSES if name in sums
    }
    return Choice(**found, attention={name: route for name, route in own.items() if route != "library"})


def _winner(times: Mapping[str, float], usual: str, margin: float) -> str:
    fastest = min(times, key=lambda route: times[route])
    return fastest if times[fastest] * margin < times[usual] else usual


def _cases(dtype: torch.dtype) -> dict[str, dict[str, Run]]:
    """{case: {route: what to run}}. The sizes are those of U-Nets and transformers where they spend their time."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    cases: dict[str, dict[str, Run]] = {}
    for rows, width, out in ((1024, 640, 640), (256, 1280, 1280)):
        cases[f"linear {rows}x{width}x{out}"] = _linear(some(rows, width), some(out, width), some(out))
    for channels, side, kernel in ((320, 32, 3), (640, 8, 3), (640, 16, 1)):
        weight = some(channels, channels, kernel, kernel)
        cases[f"conv {kernel}x{kernel} {channels} {side}"] = _conv(some(2, channels, side, side), weight)
    cases["blocks geglu"] = _geglu(some(512, 320), some(2560, 320), some(2560))
    for name, queries, keys, width in (
        ("long-narrow", 512, 1024, 40), ("long-wide", 512, 1024, 128), ("middle-narrow", 256, 256, 40),
        ("middle-wide", 256, 256, 128), ("short-narrow", 256, 77, 40), ("short-wide", 256, 77, 128),
    ):  # fmt: skip
        cases[name] = _attention(some(2, queries, 4, width), some(2, keys, 4, width), some(2, keys, 4, width))
    return cases


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Run]:
    routes: dict[str, Run] = {"plain": lambda: F.linear(x, weight, bias)}
    if native.supported("linear", x.dtype):
        packed = native.pack_linear(weight, x.shape[0])
        routes["packed"] = lambda: native.linear(x, packed, bias)
    return routes


def _conv(x: Tensor, weight: Tensor) -> dict[str, Run]:
    padding = weight.shape[-1] // 2
    laid, kernel = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    routes: dict[str, Run] = {
        "plain": lambda: F.conv2d(x, weight, padding=padding),
        "channels_last": lambda: F.conv2d(laid, kernel, padding=padding),
    }
    if native.supported("conv", x.dtype):
        geometry = ([padding] * 2, [1, 1], [1, 1], 1)
        packed = native.pack_conv(weight, laid.shape, geometry)
        routes["packed"] = lambda: native.conv(laid, packed, None, geometry)
    return routes


def _geglu(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Run]:
    def plain() -> Tensor:
        hidden, gate = F.linear(x, weight, bias).chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    routes: dict[str, Run] = {"plain": plain}
    if native.supported("fused", x.dtype):
        half = weight.shape[0] // 2
        hidden, gate = (native.pack_linear(part.contiguous(), x.shape[0]) for part in weight.split(half))
        first, second = bias.split(half)
        routes["fused"] = lambda: native.linear(x, hidden, first, times=native.linear(x, gate, second, "gelu"))
    return routes


def _attention(*tensors: Tensor) -> dict[str, Run]:
    query, key, value = (tensor.transpose(1, 2) for tensor in tensors)
    routes: dict[str, Run] = {"library": lambda: F.scaled_dot_product_attention(query, key, value)}
    for name, route in attention.ROUTES.items():
        routes[name] = lambda route=route: route(query, key, value)  # type: ignore[misc]
    return routes


def choose(dtype: torch.dtype, *, folder: Path | None = None, anew: bool = False) -> Measured:
    """The measurement for a dtype on this machine: the kept one, or a new one that is then kept.

    float16 is left to torch, which has no fast kernels for it on CPUs.

    Args:
        folder: where measurements are kept; None is the user's cache folder.
        anew: measure in any case.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return Measured(choice=Choice())
    file = (folder or machine.cache_folder()) / "kernels.json"
    name, wanted = str(dtype).removeprefix("torch."), {"format": FORMAT, **machine.fingerprint()}
    kept = _read(file)
    key = json.dumps(wanted, sort_keys=True)
    if not anew and (found := _parse(kept.get(key, {}).get(name))) is not None:
        return found
    made = measure(dtype)
    entry = {**asdict(made), "choice": made.choice.to_text()}
    _write(file, {**kept, key: {**kept.get(key, {}), name: entry}})
    return made


def _parse(entry: Any) -> Measured | None:
    try:
        return Measured(**{**entry, "choice": Choice.from_text(entry["choice"])})
    except (TypeError, KeyError, ValueError, AttributeError):
        return None  # written by another version, or damaged: measured anew


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(part, dict) for part in found.values()) else {}


def _write(file: Path, kept: Mapping[str, Any]) -> None:
    """Whole or not at all; a cache that cannot be written only costs the next run its time."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".json")
        with os.fdopen(handle, "w") as stream:
            stream.write(json.dumps(kept, indent=1))
        os.replace(temporary, file)
