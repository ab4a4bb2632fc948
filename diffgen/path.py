"""The noise path: how clean latents become noise, and how a network's output becomes the clean estimate.

Every path mixes a clean sample with unit Gaussian noise,

    x = alpha * x0 + sigma * noise,

and differs only in how (alpha, sigma) follow the *level*: the number that schedules space, largest at
pure noise and 0 at the clean sample.

| path | level | alpha | sigma | what the network is told |
|---|---|---|---|---|
| DiscretePath | sigma / alpha | 1 / sqrt(1 + level^2) | level * alpha | index into the training betas |
| FlowPath | t in 0..1 | 1 - level | level | level * `time_scale` |
| EDMPath | sigma | 1 | level | ln(level) / 4 |

Training and sampling both use this module, so what is trained is what is sampled.
Sources: DDPM (2006.11239), progressive distillation for v (2202.00512), EDM (2206.00364),
rectified flow (2209.03003), zero-terminal-SNR betas (2305.08891).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from diffgen.errors import NumericalError, unknown

if TYPE_CHECKING:
    from torch import Tensor

Prediction = Literal["epsilon", "v", "x0", "flow"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v", "x0", "flow")


class NoisePath(Protocol):
    """What schedules, samplers and the training objective need to know of a path. All values are floats."""

    @property
    def min_level(self) -> float:
        """The smallest level above 0 that the network was trained at."""

    @property
    def max_level(self) -> float:
        """The level of pure noise."""

    def coefficients(self, level: float) -> tuple[float, float]:
        """(alpha, sigma) at `level`; (1, 0) at level 0."""

    def time(self, level: float) -> float:
        """What the network is told at `level`."""

    def level(self, time: float) -> float:
        """The inverse of `time`."""

    def level_at(self, log_snr: float) -> float:
        """The level where ln(alpha / sigma) equals `log_snr`."""


@dataclass(frozen=True, kw_only=True)
class DiscretePath:
    """A variance-preserving path given by training betas, read between the indices by interpolating
    ln(sigma / alpha) linearly, as k-diffusion does.

    Args:
        alphas_cumprod: the cumulative product of 1 - beta, one value a training index, falling.
        pure: where the table ends at 0, the last index is noise and nothing else. Without it alpha is 2^-12 there,
            as in most of diffusers' samplers.
    """

    alphas_cumprod: tuple[float, ...]
    pure: bool = False
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A zero-terminal-SNR table ends at 0; 2^-24 is the value diffusers puts there, and keeps the log finite.
        safe = [max(a, 2.0**-24) for a in self.alphas_cumprod]
        object.__setattr__(self, "_logs", tuple(0.5 * math.log((1 - a) / a) for a in safe))

    @property
    def min_level(self) -> float:
        return math.exp(self._logs[0])

    @property
    def max_level(self) -> float:
        return math.exp(self._logs[-1])

    def coefficients(self, level: float) -> tuple[float, float]:
        if self.pure and self.alphas_cumprod[-1] == 0 and level >= self.max_level * (1 - 1e-9):
            return 0.0, 1.0
        alpha = 1 / math.sqrt(1 + level * level)
        return alpha, level * alpha

    def time(self, level: float) -> float:
        if level <= 0:
            return 0.0
        log = math.log(level)
        high = min(max(bisect.bisect_left(self._logs, log), 1), len(self._logs) - 1)
        below, above = self._logs[high - 1], self._logs[high]
        return min(max(high - 1 + (log - below) / (above - below), 0.0), len(self._logs) - 1.0)

    def level(self, time: float) -> float:
        low = min(max(int(time), 0), len(self._logs) - 2)
        part = time - low
        return math.exp((1 - part) * self._logs[low] + part * self._logs[low + 1])

    def level_at(self, log_snr: float) -> float:
        return math.exp(-log_snr)


@dataclass(frozen=True, kw_only=True)
class FlowPath:
    """The straight path of rectified flow. The level runs from 1 (noise) to 0.

    Args:
        time_scale: the network is told level * time_scale (1000 for most published models).
        min_level: the smallest level above 0 that a schedule may place.
        max_level: the largest. Below 1 where a model is sampled from a little short of pure noise.
        whole: the network is told whole numbers, rounded down, as it was trained.
    """

    time_scale: float = 1000.0
    min_level: float = 1 / 1000
    max_level: float = 1.0
    whole: bool = False

    def coefficients(self, level: float) -> tuple[float, float]:
        return 1 - level, level

    def time(self, level: float) -> float:
        time = level * self.time_scale
        # The sliver keeps a whole number whole after a multiplication that rounds.
        return float(math.floor(time + 1e-6)) if self.whole else time

    def level(self, time: float) -> float:
        return time / self.time_scale

    def level_at(self, log_snr: float) -> float:
        return 1 / (1 + math.exp(log_snr))


@dataclass(frozen=True, kw_only=True)
class EDMPath:
    """The variance-exploding path of EDM; the network is told ln(sigma) / 4.

    Args:
        sigma_min, sigma_max: the range the network was trained on.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def min_level(self) -> float:
        return self.sigma_min

    @property
    def max_level(self) -> float:
        return self.sigma_max

    def coefficients(self, level: float) -> tuple[float, float]:
        return 1.0, level

    def time(self, level: float) -> float:
        return 0.25 * math.log(max(level, 1e-20))

    def level(self, time: float) -> float:
        return math.exp(4 * time)

    def level_at(self, log_snr: float) -> float:
        return math.exp(-log_snr)


def betas_path(
    *, count: int = 1000, start: float = 0.00085, end: float = 0.012, kind: str = "scaled_linear",
    zero_snr: bool = False,
) -> DiscretePath:
    """The path of a DDPM beta schedule.

    Args:
        count: training indices.
        start, end: first and last beta.
        kind: "linear", "scaled_linear" (linear in sqrt(beta)) or "squaredcos_cap_v2" (Nichol and Dhariwal, 2102.09672).
        zero_snr: rescale so that the last index is pure noise (2305.08891).

    Raises:
        UsageError: `kind` is none of the three.
    """
    import torch  # here, so that tables and recipes can be read without the 1.5 s this takes

    if kind == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    elif kind == "squaredcos_cap_v2":
        edges = torch.arange(count + 1, dtype=torch.float64) / count
        bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    else:
        raise unknown("beta schedule", kind, ["linear", "scaled_linear", "squaredcos_cap_v2"])
    bars = torch.cumprod(1 - betas, 0)
    if zero_snr:
        roots = bars.sqrt()
        bars = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return DiscretePath(alphas_cumprod=tuple(bars.tolist()))


def mix(x0: Tensor, noise: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
    """The noised sample x = alpha x0 + sigma noise. Coefficients are floats or tensors that broadcast."""
    return alpha * x0 + sigma * noise


def blend(x: Tensor, a: float, y: Tensor, b: float) -> Tensor:
    """a x + b y, a new tensor. The arithmetic of every step.

    Two operations, and one where a + b = 1, as on EDM and flow paths. A product with a Python number would cost the
    time of both, because torch makes a tensor of the number first.
    """
    rest = a + b - 1
    mixed = x.lerp(y, 1 - a)
    return mixed.add_(y, alpha=rest) if abs(rest) > 1e-15 else mixed


def x0_weights(prediction: Prediction, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """(a, b) with which the clean estimate is a x + b output. For floats or tensors; the inverse of `target`.

    `epsilon` is the noise, `v` = alpha noise - sigma x0, `flow` = noise - x0.

    Raises:
        UsageError: `prediction` is unknown.
        NumericalError: epsilon, at pure noise: it says nothing of x0 there.
    """
    if prediction == "epsilon":
        if isinstance(alpha, float) and alpha == 0:
            raise NumericalError("a network that predicts noise says nothing at pure noise (alpha 0)")
        return 1 / alpha, -sigma / alpha
    if prediction == "v":
        power = alpha * alpha + sigma * sigma
        return alpha / power, -sigma / power
    if prediction == "flow":
        total = alpha + sigma
        return 1 / total, -sigma / total
    if prediction == "x0":
        return 0.0, 1.0
    raise unknown("prediction", prediction, PREDICTIONS)


def to_x0(
    prediction: Prediction, output: Tensor, x: Tensor, alpha: float | Tensor, sigma: float | Tensor
) -> Tensor:
    """The clean estimate from a network's output at the noised sample `x`, by `x0_weights`.

    An exact inverse of `target` when x = mix(x0, noise, alpha, sigma). Raises as `x0_weights`.
    """
    a, b = x0_weights(prediction, alpha, sigma)
    if prediction == "x0":
        return output
    return blend(x, a, output, b) if isinstance(a, float) else a * x + b * output


def target(
    prediction: Prediction, x0: Tensor, noise: Tensor, alpha: float | Tensor, sigma: float | Tensor
) -> Tensor:
    """What a network of this prediction type is trained to give; the inverse of `to_x0`.

    Raises:
        UsageError: `prediction` is unknown.
    """
    if prediction == "epsilon":
        return noise
    if prediction == "v":
        return alpha * noise - sigma * x0
    if prediction == "flow":
        return noise - x0
    if prediction == "x0":
        return x0
    raise unknown("prediction", prediction, PREDICTIONS)
