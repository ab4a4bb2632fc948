"""`diffgen models --families`: what every family can do, asked of the family itself.

Each published model is built from its carried configuration with one layer of each kind and without weights; text
encoders and tokenizers, which decide none of this, are left empty.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from diffgen.app.tables import print_table

if TYPE_CHECKING:
    from diffgen.checkpoints.blueprint import Blueprint
    from diffgen.contracts import Family

# Models that load from folders alone: nothing but their networks' own defaults is carried.
_FOLDERS: dict[str, tuple[str, dict[str, tuple[str, dict[str, Any]]]]] = {
    "svd": ("StableVideoDiffusionPipeline", {
        "unet": ("UNetSpatioTemporalConditionModel", {}), "vae": ("AutoencoderKLTemporalDecoder", {
            "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
            "layers_per_block": 2})}),
    "cogvideox-2b": ("CogVideoXPipeline", {
        "transformer": ("CogVideoXTransformer3DModel", {}), "vae": ("AutoencoderKLCogVideoX", {})}),
    "animatediff": ("AnimateDiffPipeline", {
        "unet": ("UNetMotionModel", {"cross_attention_dim": 768, "sample_size": 64}), "vae": ("AutoencoderKL", {
            "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2})}),
    "flux2-dev": ("Flux2Pipeline", {
        "transformer": ("Flux2Transformer2DModel", {}), "vae": ("AutoencoderKLFlux2", {})}),
}  # fmt: skip
_SCHEDULERS = {"flux2-dev": {"use_dynamic_shifting": True}}
_LAYERS = ("num_layers", "num_single_layers", "num_mmdit_layers", "num_single_dit_layers", "n_layers",
           "n_refiner_layers", "num_refiner_layers", "approximator_layers", "transformer_layers_per_block")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A published model.

    Attributes:
        kind: its name among the carried ones, which --kind takes.
        family: what draws it.
        tasks: what it can do.
        negative_prompt: whether it takes one.
        embedded_guidance: whether the scale is an input of the network; --true-cfg then adds the classifier-free one.
        guidance, steps, sampler, schedule: what is used where nothing is said.
        shift: of the schedule at the native size; None where there is none.
        size: width and height in pixels it was made for.
        multiple: of which width and height must be multiples.
        frames: frames it was made for; 1 for pictures.
        frame_rule: which numbers of frames it draws; "" for pictures.
    """

    kind: str
    family: str
    tasks: tuple[str, ...]
    negative_prompt: bool
    embedded_guidance: bool
    guidance: float
    steps: int
    sampler: str
    schedule: str
    shift: float | None
    size: tuple[int, int]
    multiple: int
    frames: int
    frame_rule: str


def print_families(as_json: bool) -> None:
    """Prints the table, or one JSON document."""
    import json

    found = list(rows())
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return
    print_table(
        "Families", ("model", "family", "tasks", "guidance", "(negative)", "size", "(multiple)", "frames",
                     "sampler, schedule", "(steps)", "(shift)"),
        [_told(row) for row in found],
    )  # fmt: skip


def _told(row: Row) -> tuple[str, ...]:
    guidance = f"{row.guidance:g}" + (", built in" if row.embedded_guidance else "")
    frames = f"{row.frames} ({row.frame_rule})" if row.frame_rule else "-"
    return (
        row.kind, row.family, ", ".join(task.replace("_", " ") for task in row.tasks), guidance,
        "yes" if row.negative_prompt else "no", f"{row.size[0]}x{row.size[1]}", str(row.multiple), frames,
        f"{row.sampler}, {row.schedule}", str(row.steps), "-" if row.shift is None else f"{row.shift:.3g}",
    )  # fmt: skip


def rows() -> Iterator[Row]:
    """Every published model whose configuration is carried, then those that load from folders alone."""
    from diffgen.checkpoints.blueprint import Blueprint, Slot, blueprint, carried

    for name in carried():
        yield _row(name, blueprint(name, prediction="v_prediction" if name == "sd2" else None))
    for name, (pipeline, networks) in _FOLDERS.items():
        slots = tuple(
            Slot(name=slot, kind=f"diffusers.{kind}", config=config) for slot, (kind, config) in networks.items()
        )
        yield _row(name, Blueprint(name=name, pipeline=pipeline, slots=slots, scheduler=_SCHEDULERS.get(name, {})))


def _row(name: str, plan: Blueprint) -> Row:
    family = build(plan)
    spec, defaults = family.spec, family.defaults
    settings = dict(defaults.settings)
    if defaults.sized is not None:
        settings |= defaults.sized(*spec.size, spec.frames, defaults.steps)
    step = spec.frame_step or spec.frame_factor
    most = f", at most {spec.most_frames}" if spec.most_frames else ""
    clip = spec.frames > 1 or any("video" in cap for cap in family.caps)
    flags = {"negative_prompt", "guidance_embedding"}
    return Row(
        kind=name, family=family.name, tasks=tuple(sorted(set(family.caps) - flags)),
        negative_prompt="negative_prompt" in family.caps, embedded_guidance="guidance_embedding" in family.caps,
        guidance=defaults.guidance, steps=defaults.steps, sampler=defaults.sampler, schedule=defaults.schedule,
        shift=settings.get("shift"), size=spec.size, multiple=spec.multiple, frames=spec.frames,
        frame_rule=(f"{step}k+1" if step > 1 else "any") + most if clip else "",
    )  # fmt: skip


def build(plan: Blueprint) -> Family:
    """The family of a model: its denoiser and autoencoder small and empty, all else stood for by its configuration."""
    from diffgen import families
    from diffgen.families.common import Parts

    components: dict[str, Any] = {}
    for slot in plan.slots:
        drawn = slot.role in {"denoiser", "vae"}
        components[slot.name] = _small(slot.kind, slot.config) if drawn else StandIn(slot.config)
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder", "text_encoder_2", "text_encoder_3",
                 "image_encoder", "image_processor", "feature_extractor", "processor"):  # fmt: skip
        components.setdefault(name, StandIn({}))
    index = {**plan.index, "_class_name": plan.pipeline}
    configs = {"scheduler": plan.scheduler}
    return families.build(Parts(origin=Path(plan.name), index=index, components=components, configs=configs))


class StandIn:
    """Holds a configuration for a part that is not built; whatever else is asked of it is a stand-in again."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = SimpleNamespace(**config)
        self.image_mean = self.image_std = (0.5, 0.5, 0.5)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn({})


def _small(kind: str, config: Mapping[str, Any]) -> Any:
    from diffgen.checkpoints.networks import empty_network

    library, _, name = kind.partition(".")
    network = getattr(import_module(library), name)
    known = inspect.signature(network.__init__).parameters
    warnings.simplefilter("ignore", FutureWarning)  # of diffusers, about classes of its own
    few = {key: 1 for key in _LAYERS if key in known and isinstance(config.get(key, known[key].default), int)}
    return empty_network(network, {**config, **few})
