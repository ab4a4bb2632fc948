"""Which kernels a CUDA device runs, decided from what it can do: a table, since no device was there to measure.

Nothing here has run on a GPU. The decisions are pure functions of a `Device`, so that tests can put any device
before them; what carries them out is in `carry.py`.

Sources: the requirements that each library states. FlashAttention 2: capability 8.0, heads to 256. SageAttention: 8.0,
heads of 64, 96 and 128, no mask. xformers: 7.0, heads to 256 in multiples of 8. cuDNN: heads to 128 in multiples of 8;
it is preferred to flash attention from 9.0 on, where torch prefers it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

LIBRARIES = {"flash": "flash_attn", "sage": "sageattention", "xformers": "xformers"}
LOW = ("float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A CUDA device. `capability` is such as (8, 6); `libraries` are those of `LIBRARIES` that are installed."""

    name: str = ""
    capability: tuple[int, int] = (0, 0)
    memory: int = 0
    libraries: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One kind of attention call: the width of a head, its dtype, and whether it has a mask."""

    width: int
    dtype: str
    mask: bool = False


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What an attention library can do. `exact` libraries do not quantise.

    Attributes:
        capability: the least that it runs on.
        widths: heads it takes: at most so wide, in multiples of so many; or just these.
    """

    capability: tuple[int, int]
    widest: int
    multiple: int = 1
    widths: tuple[int, ...] = ()
    mask: bool = False
    dtypes: tuple[str, ...] = LOW
    exact: bool = True

    def takes(self, device: Device, shape: Shape) -> bool:
        """Whether it computes calls of this shape on this device."""
        fits = (
            shape.width in self.widths
            if self.widths
            else shape.width <= self.widest and not shape.width % self.multiple
        )
        return (
            device.capability >= self.capability
            and fits
            and shape.dtype in self.dtypes
            and (self.mask or not shape.mask)
        )


# In order of preference. "native" takes everything, so there is always one.
BACKENDS: Mapping[str, Backend] = {
    "sage": Backend(capability=(8, 0), widest=128, widths=(64, 96, 128), exact=False),
    "flash": Backend(capability=(8, 0), widest=256, multiple=8),
    "cudnn": Backend(capability=(9, 0), widest=128, multiple=8),
    "xformers": Backend(capability=(7, 0), widest=256, multiple=8, mask=True, dtypes=(*LOW, "float32")),
    "native": Backend(capability=(0, 0), widest=1 << 30, mask=True, dtypes=(*LOW, "float32")),
}
_WITH_TORCH = ("cudnn", "native")


def backend(device: Device, shape: Shape, *, exact: bool = True) -> str:
    """The attention backend for calls of one shape.

    torch's own flash attention is FlashAttention 2, so on devices from capability 8.0 the package is only taken where
    it is installed; xformers is worth it on older devices, where torch has only the memory-efficient kernel.

    Args:
        exact: whether libraries that quantise are left out, which is the default of a run.
    """
    for name, known in BACKENDS.items():
        there = name in _WITH_TORCH or name in device.libraries
        if there and (known.exact or not exact) and known.takes(device, shape):
            return name
    return "native"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is set for a device as a whole.

    Attributes:
        tf32: float32 products rounded to 10 bits of mantissa; never on in an exact run.
        channels_last: convolutions on tensor cores want it.
        fp8: weights may be kept and multiplied in 8 bits (capability 8.9).
        compile: "blocks" compiles the repeated blocks of the denoiser, once for all of a kind.
        graphs: replay of recorded launches, for shapes that do not change.
    """

    tf32: bool = False
    channels_last: bool = False
    fp8: bool = False
    compile: str = "off"
    graphs: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)


LONG_RUN = 200  # evaluations of the denoiser that pay for half a minute of compiling


def settings(device: Device, dtype: str, *, exact: bool = True, evaluations: int = 0, fixed: bool = True) -> Settings:
    """The settings for a device and a run, with the reason for each.

    Args:
        evaluations: of the denoiser, in the whole run.
        fixed: whether all of them have one shape, as without windows, tiles or an interval of guidance.
    """
    low, cores = dtype in LOW, device.capability >= (7, 0)
    tf32 = not exact and not low and device.capability >= (8, 0)
    fp8 = not exact and device.capability >= (8, 9)
    compiled = not exact and cores and evaluations >= LONG_RUN
    return Settings(
        tf32=tf32, channels_last=low and cores, fp8=fp8, compile="blocks" if compiled else "off",
        graphs=compiled and fixed,
        reasons={
            "tf32": "float32, from 8.0 on" if tf32 else "exact runs keep float32 whole" if exact else "of no use",
            "channels_last": "tensor cores" if low and cores else "no tensor cores for this dtype",
            "fp8": "exact runs keep their bits" if exact else "needs capability 8.9",
            "compile": "exact runs are eager" if exact else f"{evaluations} evaluations; pays from {LONG_RUN} on",
            "graphs": "one shape throughout" if fixed else "shapes change",
        },
    )  # fmt: skip


def devices() -> Sequence[Device]:
    """The CUDA devices of this machine; none where torch was built without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return ()
    there = frozenset(name for name, module in LIBRARIES.items() if find_spec(module) is not None)
    found = []
    for number in range(torch.cuda.device_count()):
        told = torch.cuda.get_device_properties(number)
        found.append(Device(
            name=told.name, capability=(told.major, told.minor), memory=told.total_memory, libraries=there,
        ))  # fmt: skip
    return found


def describe(device: Device) -> dict[str, Any]:
    """What the doctor says of a device: the backend of common heads, and the settings of an exact bfloat16 run."""
    shapes = [Shape(width=width, dtype="bfloat16", mask=mask) for width in (40, 64, 128) for mask in (False, True)]
    dtype = "bfloat16" if device.capability >= (8, 0) else "float16"
    chosen = settings(device, dtype)
    return {
        "name": device.name, "capability": ".".join(map(str, device.capability)),
        "memory": f"{device.memory / 2**30:.1f} GiB", "libraries": ", ".join(sorted(device.libraries)) or "none",
        "attention": {f"{s.width}{' masked' if s.mask else ''}": backend(device, s) for s in shapes},
        **{name: value for name, value in asdict(chosen).items() if name != "reasons"},
    }  # fmt: skip
