"""One comparison with diffusers, written once: a checkpoint, a pipeline, and how both are asked for the same.

A `Variant` is one row of the tables in `pictures` and `clips`. `CORNERS` are the runs that every row is drawn
with; the tests draw two of the eight by default and all with the marker `slow`, `benchmarks/parity.py` all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import diffgen
from diffgen import engine, noise
from diffgen.checkpoints import Model
from diffgen.contracts import Plan, steps_of
from diffgen.pipelines import drawing, image_to_video, request, text_to_image, text_to_video, walking

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "photo of a red apple", "the blue cat"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One corner of what a variant can be asked for."""

    guided: bool
    batch: int
    size: tuple[int, int]
    frames: int | None = None

    @property
    def seeds(self) -> list[int]:
        return [3 + k for k in range(self.batch)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """A checkpoint of a family, and how diffgen and diffusers are asked for the same picture or clip.

    Attributes:
        family, variant: as the table calls them.
        make: writes the tiny checkpoint into a folder.
        pipeline: diffusers' class.
        task: diffgen's task.
        scales: diffgen's guidance, off and on.
        true_cfg: classifier-free guidance where `scales` are an input of the network; None where there is none.
        scale: what the pipeline calls `scales`.
        sizes, frames: the two of each that the corners draw.
        negative: the unwanted, or None where the pipeline takes none.
        options: further options of diffgen's task, such as its settings.
        call: further arguments of the pipeline: a table, or made of the pipeline and the run.
        visual: what is attached to the conditioning, one row each, where the task has no door for it yet.
        looked_at: what the text encoder looks at beside the prompt.
        image: the pictures that a clip holds, by frame.
        unpack: the pipeline's latents as [n, channels, frames, h, w].
        twice: whether the pipeline's callback does not see the last latents, so that it has to run once for each.
        repeat: whether the pipeline takes one prompt only, for several pictures.
        components: parts of the pipeline that are not in the folder.
        around: what is made the same in both libraries while they draw.
        tolerance: largest difference, relative to the largest value where that is above 1.
    """

    family: str
    variant: str
    make: Callable[[Path], Path]
    pipeline: str
    task: str = "text_to_image"
    scales: tuple[float, float] = (1.0, 5.0)
    true_cfg: float | None = None
    scale: str = "guidance_scale"
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((64, 48), (48, 80))
    frames: tuple[int, int] | None = None
    steps: int = 4
    prompt: str = PROMPT
    negative: str | None = NEGATIVE
    options: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] | Callable[[Any, Run], Mapping[str, Any]] = field(default_factory=dict)
    visual: Callable[[Run], Mapping[str, Tensor]] | None = None
    looked_at: Callable[[Run], Sequence[Tensor]] | None = None
    image: Callable[[Run], Mapping[int, Tensor]] | None = None
    unpack: Callable[[Tensor, Run], Tensor] | None = None
    twice: bool = False
    repeat: bool = False
    components: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    tolerance: float = TOLERANCE

    @property
    def title(self) -> str:
        return f"{self.family} {self.variant}".strip()


CORNERS = tuple(product((False, True), (1, 3), (0, 1)))
FEW = ((False, 1, 0), (True, 3, 1))


def run_of(variant: Variant, corner: tuple[bool, int, int]) -> Run:
    """What a corner asks of a variant."""
    guided, batch, which = corner
    frames = variant.frames[which] if variant.frames else None
    return Run(guided=guided, batch=batch, size=variant.sizes[which], frames=frames)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Float32 latents [n, channels, frames, h, w], pixels [n, frames, height, width, 3] in 0..1, processor seconds."""

    latents: np.ndarray
    pixels: np.ndarray
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Both:
    """One variant, loaded by both libraries from one folder."""

    variant: Variant
    model: Model
    pipe: Any

    def draw(self, corner: tuple[bool, int, int]) -> tuple[Drawn, Drawn]:
        """(diffgen's, diffusers') answer to one corner."""
        run = run_of(self.variant, corner)
        with self.variant.around():
            return mine(self.model, self.variant, run), theirs(self.pipe, self.variant, run)


def both(variant: Variant, folder: Path) -> Both:
    """Makes the variant's checkpoint in `folder` and loads it twice."""
    variant.make(folder)
    kind = getattr(diffusers, variant.pipeline)
    pipe = kind.from_pretrained(folder, local_files_only=True, **variant.components(folder))
    pipe.set_progress_bar_config(disable=True)
    return Both(variant=variant, model=diffgen.load(folder), pipe=pipe)


def mine(model: Model, variant: Variant, run: Run) -> Drawn:
    """What diffgen draws, all seeds in one batch."""
    options: dict[str, Any] = dict(
        seed=run.seeds[0], count=run.batch, negative=variant.negative or "", steps=variant.steps, size=run.size,
        guidance=variant.scales[1 if run.guided else 0],
        # The families' own mathematics: which kernels join in is measured on the machine, and SVD is told sigma 700.
        kernels="off", **variant.options,
    )  # fmt: skip
    if run.guided and variant.true_cfg:
        options["settings"] = {**options.get("settings", {}), "true_cfg": variant.true_cfg}
    if run.frames:
        options["frames"] = run.frames
    start = time.process_time()
    if variant.visual is not None:
        visual, shown = variant.visual(run), variant.looked_at(run) if variant.looked_at else None
        found = attached(model, variant.task, variant.prompt, visual, looked_at=shown, **options)
    else:
        task: Any = {"text_to_image": text_to_image, "text_to_video": text_to_video}.get(variant.task)
        if variant.image is not None:
            task = partial(image_to_video, image={at: unit(one) for at, one in variant.image(run).items()})
        results = task(model, prompt=variant.prompt, batch=run.batch, **options)
        found = np.stack([one.latents for one in results]), np.stack([one.pixels for one in results])
    pixels = found[1] if found[1].ndim == 5 else found[1][:, None]
    return Drawn(latents=found[0], pixels=pixels, seconds=time.process_time() - start)


def attached(
    model: Model, task: str, prompt: str, visual: Mapping[str, Tensor], *, count: int = 1,
    looked_at: Sequence[Tensor] | None = None, **options: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(latents, pixels [n, frames, height, width, 3]) with `visual`, of one row each, attached to both branches."""
    family = model.family
    recipe, *_ = request.resolve(model, task, prompt=prompt, **options)
    sampler, levels, scale, guidance = walking.walk(recipe, family)
    told, _ = family.encode_text([prompt, recipe.negative], **({} if looked_at is None else {"pictures": looked_at}))
    extra = {"guidance": torch.full((2,), recipe.guidance)} if "guidance_embedding" in family.caps else {}
    told = replace(told, extra={**told.extra, **extra})
    many = {name: tensor.repeat(count, *[1] * (tensor.ndim - 1)) for name, tensor in visual.items()}
    with torch.inference_mode():
        pos, neg = (family.attach(told.rows(slice(k, k + 1)).repeat(count), many) for k in range(2))
    shape = family.spec.shape(batch=count, width=recipe.width or 0, height=recipe.height or 0)
    seeds = [(recipe.seed or 0) + k for k in range(count)]
    first, later = noise.sequence(seeds, shape, kind=walking.noise_kind(recipe))
    plan = Plan(
        x=first * scale, steps=steps_of(family.path, levels), sampler=sampler, noise=later, pos=pos,
        neg=None if guidance.scale == 1 else neg, guidance=guidance,
    )  # fmt: skip
    z = engine.finish(engine.run(family, plan)).x
    pixels = [drawing.decode(family, z[k : k + 1])[0] for k in range(count)]
    return z.numpy(), np.stack(pixels)


def theirs(pipe: Any, variant: Variant, run: Run) -> Drawn:
    """What diffusers' own pipeline draws, each picture with a generator of its own."""
    call: dict[str, Any] = dict(
        num_inference_steps=variant.steps, width=run.size[0], height=run.size[1],
        **{variant.scale: variant.scales[1 if run.guided else 0]},
        **({"num_frames": run.frames} if run.frames else {}),
    )  # fmt: skip
    if run.guided and variant.true_cfg:
        call["true_cfg_scale"] = variant.true_cfg
    texts = {"prompt": variant.prompt, **({} if variant.negative is None else {"negative_prompt": variant.negative})}
    if variant.repeat:
        call["num_images_per_prompt"] = run.batch
    else:
        texts = {name: [text] * run.batch for name, text in texts.items()}
    further = variant.call(pipe, run) if callable(variant.call) else variant.call
    call = {name: value for name, value in {**texts, **call, **further}.items() if value is not _LEFT_OUT}
    start = time.process_time()
    latents, pixels = _captured(pipe, run, call, variant.twice)
    seconds = (time.process_time() - start) / (2 if variant.twice else 1)
    latents = variant.unpack(latents, run) if variant.unpack else latents
    if latents.ndim == 4:
        latents, pixels = latents[:, :, None], pixels[:, None]
    return Drawn(latents=latents.numpy(), pixels=pixels, seconds=seconds)


_LEFT_OUT = object()


def without(*names: str) -> Mapping[str, Any]:
    """Arguments that a pipeline does not have."""
    return dict.fromkeys(names, _LEFT_OUT)


def _captured(pipe: Any, run: Run, call: Mapping[str, Any], twice: bool) -> tuple[Tensor, np.ndarray]:
    """(the last latents as the pipeline holds them, pixels)."""
    kept: list[Tensor] = []

    def keep(_pipe: Any, _i: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept[:] = [values["latents"].clone()]
        return values

    def draw(**options: Any) -> Any:
        gens = [torch.Generator("cpu").manual_seed(seed) for seed in run.seeds]
        return pipe(**call, generator=gens, **options)[0]

    if twice:
        return draw(output_type="latent"), np.asarray(draw(output_type="np"))
    pixels = np.asarray(draw(output_type="np", callback_on_step_end=keep))
    return kept[0], pixels


def difference(mine: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest value where that is above 1."""
    assert mine.shape == want.shape, f"{mine.shape} against {want.shape}"
    assert np.isfinite(want).all()
    return float(np.abs(mine - want).max() / max(1.0, np.abs(want).max()))


def agree(got: Drawn, want: Drawn, limit: float = TOLERANCE) -> None:
    """Asserts that latents and pixels are the same, and that they show something."""
    assert want.pixels.std() > 1e-3, "a blank picture proves nothing"
    found = difference(got.latents, want.latents), difference(got.pixels, want.pixels)
    assert max(found) < limit, f"latents differ by {found[0]:.1e}, pixels by {found[1]:.1e}"


def picture(width: int, height: int, seed: int = 0) -> Tensor:
    """[1, 3, 1, height, width] in -1..1: a smooth picture, at whole 8-bit levels so that files cannot change it."""
    small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    return ((large * 255).round() / 127.5 - 1).unsqueeze(2)


def mask(width: int, height: int) -> Tensor:
    """[1, 1, 1, height, width]: 1 in the right half, and in a corner that cuts through the 8-pixel cells."""
    hole = torch.zeros(1, 1, 1, height, width)
    hole[..., width // 2 :] = 1
    hole[..., :12, :12] = 1
    return hole


def unit(pixels: Tensor) -> np.ndarray:
    """`picture` as diffgen's tasks take it: float32 [height, width, 3] in 0..1."""
    return ((pixels[0, :, 0].permute(1, 2, 0) + 1) / 2).numpy()


def pil(pixels: Tensor) -> Image.Image:
    """`picture` or `mask` as diffusers' pipelines take it."""
    values = pixels[0, :, 0].permute(1, 2, 0)
    if values.shape[-1] == 1:
        return Image.fromarray((values[..., 0] * 255).numpy().astype(np.uint8))
    return Image.fromarray(((values + 1) * 127.5).round().numpy().astype(np.uint8))
