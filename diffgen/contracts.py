"""The data and the seams that everything else is written against.

Latents are always [batch, channels, frames, height, width]; a picture has one frame. Data classes are
frozen, so a plan can be run twice and gives the same picture twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from diffgen.conditioning import Conditioning as Conditioning
from diffgen.conditioning import Window as Window
from diffgen.path import NoisePath, Prediction

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A name in quotes: what only reads tables and recipes must not wait 1.5 s for torch.
Latents: TypeAlias = "Tensor"
Residuals = Mapping[str, Any]
Components = Mapping[str, Any]
Cap = Literal[
    "text_to_image", "image_to_image", "inpaint", "edit", "text_to_video", "image_to_video", "keyframes", "frame_text",
    "negative_prompt", "guidance_embedding",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Step:
    """One interval of the walk from noise to the clean sample, read at its start or, through `at`, anywhere.

    `alpha`, `sigma` and `t` belong to `level`; `next_alpha` and `next_sigma` to `next_level`. All are plain
    floats, computed before the loop. `window` is the part of the frames, rows and columns being predicted, if any.
    """

    index: int
    count: int
    path: NoisePath
    level: float
    next_level: float
    t: float
    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float
    window: Window | None = None

    @classmethod
    def between(cls, path: NoisePath, level: float, next_level: float, index: int = 0, count: int = 1) -> Step:
        """The step from `level` to `next_level` on `path`."""
        alpha, sigma = path.coefficients(level)
        next_alpha, next_sigma = path.coefficients(next_level)
        return cls(
            index=index, count=count, path=path, level=level, next_level=next_level, t=path.time(level),
            alpha=alpha, sigma=sigma, next_alpha=next_alpha, next_sigma=next_sigma,
        )  # fmt: skip

    def at(self, level: float) -> Step:
        """The same interval, evaluated at another level: what a sampler hands to `denoise` for an inner stage."""
        alpha, sigma = self.path.coefficients(level)
        return Step(
            index=self.index, count=self.count, path=self.path, level=level, next_level=self.next_level,
            t=self.path.time(level), alpha=alpha, sigma=sigma, next_alpha=self.next_alpha, next_sigma=self.next_sigma,
            window=self.window,
        )  # fmt: skip

    def to(self, next_level: float) -> Step:
        """From the same start to another level: the part of the interval an inner stage takes."""
        next_alpha, next_sigma = self.path.coefficients(next_level)
        return Step(
            index=self.index, count=self.count, path=self.path, level=self.level, next_level=next_level, t=self.t,
            alpha=self.alpha, sigma=self.sigma, next_alpha=next_alpha, next_sigma=next_sigma, window=self.window,
        )  # fmt: skip

    @cached_property
    def lam(self) -> float:
        """ln(alpha / sigma) at `level`; minus infinity where alpha is 0."""
        return _log_ratio(self.alpha, self.sigma)

    @cached_property
    def next_lam(self) -> float:
        """ln(alpha / sigma) at `next_level`; infinity where sigma is 0."""
        return _log_ratio(self.next_alpha, self.next_sigma)


def _log_ratio(alpha: float, sigma: float) -> float:
    if sigma == 0:
        return math.inf
    return math.log(alpha / sigma) if alpha > 0 else -math.inf


def steps_of(path: NoisePath, levels: Sequence[float]) -> tuple[Step, ...]:
    """The steps between consecutive levels: n + 1 falling levels give n steps."""
    count = len(levels) - 1
    return tuple(Step.between(path, levels[i], levels[i + 1], i, count) for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One prediction a guidance asks for: "positive", "negative", "perturbed" ..., under an optional patch."""

    name: str
    cond: Conditioning
    patch: Patch | None = None


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """The shape of a family's latents.

    Attributes:
        channels: latent channels that are denoised.
        factor: pixels a latent along height and width.
        multiple: height and width in pixels must be multiples of this.
        frame_factor: frames a latent in time. The first latent stands for one frame.
        frame_step: frames must be frame_step * k + 1; None is frame_factor.
        frame_lead: latents in time before the first frame's, which stand for no frame.
        frames: frames the model was made for (1 for pictures).
        most_frames: the most it can draw at once; None where nothing limits it.
        fps: frames a second it was made for; 0 for pictures.
        size: (width, height) in pixels the model was trained at.
        sizes: all of them, where it was trained at a few only and pictures to edit should have one.
        draw: the axis order in which the reference implementation draws noise, as a permutation of "bcfhw".
        draw_visual: what the reference implementation draws for a conditioning picture, before the starting
            noise and from the same generator: noise over one frame of "latents", over its "pixels", or nothing.
    """

    channels: int
    factor: int = 8
    multiple: int = 8
    frame_factor: int = 1
    frame_step: int | None = None
    frame_lead: int = 0
    frames: int = 1
    most_frames: int | None = None
    fps: float = 0.0
    size: tuple[int, int] = (512, 512)
    sizes: tuple[tuple[int, int], ...] = ()
    draw: str = "bcfhw"
    draw_visual: Literal["latents", "pixels"] | None = None

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """The size of `sizes` whose shape is closest to a picture's; its own size where there are none."""
        if not self.sizes:
            return width, height
        return min(self.sizes, key=lambda size: abs(size[0] / size[1] - width / height))

    def shape(self, *, batch: int, width: int, height: int, frames: int = 1) -> tuple[int, int, int, int, int]:
        """[batch, channels, frames, height, width] of the latents for a size in pixels."""
        latent_frames = self.frame_lead + (frames - 1) // self.frame_factor + 1
        return batch, self.channels, latent_frames, height // self.factor, width // self.factor


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a checkpoint draws with when the user says nothing.

    Attributes:
        guidance: the family's own scale: classifier-free guidance, or the embedded one of a distilled model.
        settings: sampler, schedule and guidance settings that belong to the sampler and schedule above.
        sized: (width, height, frames, steps) -> further settings, such as a shift that grows with the size.
        guide: makes the guidance from its scale and settings; None is classifier-free guidance.
        told: settings that the network is told as numbers, in a row of `Conditioning.extra` each. Their usual values,
            a number or a list of a fixed length, come from `sized`.
    """

    sampler: str = "dpmpp_2m"
    schedule: str = "normal"
    steps: int = 25
    guidance: float = 7.5
    settings: Mapping[str, Any] = field(default_factory=dict)
    sized: Callable[[int, int, int, int], Mapping[str, Any]] | None = None
    guide: Callable[..., Guidance] | None = None
    told: frozenset[str] = frozenset()


Denoiser = Callable[[Latents, Step], Latents]
Noise = Callable[[Step], Latents]
Wrapper = Callable[[Denoiser], Denoiser]
Patch = Callable[[Components], AbstractContextManager[None]]


class History:
    """What a multistep sampler remembers within one run. Newest last."""

    def __init__(self) -> None:
        self.points: list[tuple[Step, Latents]] = []
        self.x: Latents | None = None
        self.order = 0

    def remember(self, step: Step, x0: Latents, keep: int = 3) -> None:
        """Adds the clean estimate `x0` made at the start of `step`, and forgets all but the last `keep`."""
        self.points = [*self.points, (step, x0)][-keep:]


Sampler = Callable[[Denoiser, Latents, Step, History, Noise], Latents]


class Guidance(Protocol):
    """Which predictions to make at a step, and how to join them into one."""

    @property
    def space(self) -> Literal["output", "x0"]:
        """What `combine` joins: the network's outputs, or the clean estimates made of them."""

    @property
    def scale(self) -> float:
        """How strongly the positive branch is pushed away from the others; at 1 no negative is encoded."""

    def fresh(self) -> Guidance:
        """A copy that remembers nothing, for one run; itself where there is nothing to remember."""

    def branches(self, step: Step, pos: Conditioning, neg: Conditioning | None) -> tuple[Branch, ...]:
        """The predictions needed at this step."""

    def combine(self, preds: Mapping[str, Latents], step: Step) -> Latents:
        """One prediction out of those of `branches`, by branch name, in `space`."""


class Control(Protocol):
    """An auxiliary network that adds residuals to the denoiser's features."""

    def residuals(self, x: Latents, step: Step, branch: Branch) -> Residuals:
        """Named residuals for the family's network; tensors of equal name are added."""


class Family(Protocol):
    """What a checkpoint's kind means. One file each under `diffgen/families/`."""

    name: str
    spec: LatentSpec
    path: NoisePath
    prediction: Prediction
    caps: frozenset[Cap]
    defaults: Defaults
    device: torch.device
    dtype: torch.dtype

    @property
    def components(self) -> Components:
        """The networks by name, for patches."""

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """One row a prompt, and notes on anything that was cut.

        The first prompt says what to draw, any further one what to keep away from: some networks were trained
        with an instruction before the one and not before the other.
        """

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with pictures added, as far as the network takes them. Keys of `visual`, all with the batch first:

        "image": pixels [batch, 3, frames, height, width] in -1..1: what is repainted, or begins the clip.
        "mask": [batch, 1, 1, height, width], 1 where "image" is to be painted anew.
        "reference", "reference_2" ...: pixels of pictures to edit or to look at, each of its own size.
        "vision": tokens [batch, tokens, width] of an image encoder.
        "given": [1, 1, frames, 1, 1], 1 for the frames of a clip that "image" holds; where none is held, "image"
            is 0. Both then have one row, shared by the batch.
        "noise": what `LatentSpec.draw_visual` asks for, one row a clip.

        A frame that the network wants clean comes back in `clean`, and its latents as "kept" in `extra`.

        Raises:
            UsageError: the network has no place for one of them, or lacks one.
        """

    def encode(self, pixels: Tensor) -> Latents:
        """Pixels [batch, 3, frames, height, width] in -1..1 to latents, scaled as the network wants them."""

    def decode(self, z: Latents) -> Tensor:
        """Latents to pixels [batch, 3, frames, height, width], about -1..1. The inverse of `encode`."""

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        """The network's raw output at `x`, in the family's `prediction` type and float32."""

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        """Settings to fall back on when the network gives NaN, each with a name for the report."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything the engine needs to make one batch of latents. Data only; made by a task.

    Attributes:
        x: the starting latents, float32.
        steps: the walk.
        sampler: how to take one step.
        noise: makes a fresh noise source for one run; called once a run, so that a plan can run again.
        pos, neg: the conditioning of the positive and negative branch.
    """

    x: Latents
    steps: tuple[Step, ...]
    sampler: Sampler
    noise: Callable[[], Noise]
    pos: Conditioning
    neg: Conditioning | None
    guidance: Guidance
    controls: tuple[Control, ...] = ()
    wrappers: tuple[Wrapper, ...] = ()
    patches: tuple[Patch, ...] = ()
