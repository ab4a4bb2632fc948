"""Guidance out of a recipe's settings: the formula, where and when it acts, and the weakened branches it adds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from diffgen import perturbation
from diffgen.contracts import Conditioning, Family, Guidance, Patch
from diffgen.errors import UsageError
from diffgen.guidance import CFG, PUSHES, Perturbed
from diffgen.pipelines.guide_files import AUTO, MAP, denoiser, region, taken
from diffgen.recipe import Recipe

GUIDANCE_SETTINGS = {
    "guidance_method": "method", "guidance_rescale": "rescale", "guidance_percentile": "percentile",
    "guidance_start": "start", "guidance_stop": "stop", "guidance_converged": "converged",
    "image_guidance": "image_scale", "guidance_2": "scale_2", "guidance_first": "first", "guidance_dynamic": "dynamic",
}  # fmt: skip
NEGATIVE_SPAN = ("negative_start", "negative_stop")

# Guidance away from a weakened copy of the model: the settings NAME_scale, NAME_layers, NAME_start and NAME_stop.
PERTURBATIONS: dict[str, Callable[[Sequence[str]], Patch]] = {
    "pag": lambda layers: perturbation.attention("identity", layers or ("mid",)),
    "seg": lambda layers: perturbation.attention("smooth", layers or ("mid",)),
    "slg": perturbation.without_blocks,
    "auto": perturbation.thinned,
}
NAMES = (*GUIDANCE_SETTINGS, MAP, AUTO, *NEGATIVE_SPAN,
         *(f"{name}_{key}" for name in PERTURBATIONS for key in ("scale", "layers", "start", "stop")))  # fmt: skip


def guidance_of(recipe: Recipe, family: Family, scale: float, settings: dict[str, Any]) -> Guidance:
    """The guidance of `scale` that `settings` ask for, whose keys are taken out.

    Raises:
        UsageError: a value is out of range, or a file is missing or another than the one first used.
    """
    guide = family.defaults.guide or CFG
    tuned = {key: field for key, field in GUIDANCE_SETTINGS.items() if _takes(guide, field)}
    chosen = {tuned[key]: settings.pop(key) for key in tuned if key in settings}
    if push := PUSHES.get(str(chosen.get("method"))):
        own = {name: f"guidance_{name}" for name in push.settings}
        chosen["tuning"] = {name: settings.pop(key) for name, key in own.items() if key in settings}
    if MAP in settings and _takes(guide, "region"):
        chosen["region"] = region(taken(MAP, settings), recipe, family)
    negative_span(settings)
    for key in NEGATIVE_SPAN:
        settings.pop(key, None)
    return _perturbed(guide(scale=scale, **chosen), family, settings)


def negative_span(settings: Mapping[str, Any]) -> tuple[float, float]:
    """(start, stop) of the part of the walk, in 0..1, where the negative prompt holds; elsewhere it is empty.

    Raises:
        UsageError: they are not 0 <= start < stop <= 1.
    """
    start, stop = (float(settings.get(key, value)) for key, value in zip(NEGATIVE_SPAN, (0.0, 1.0), strict=True))
    if not 0 <= start < stop <= 1:
        raise UsageError(f"negative_start and negative_stop must satisfy 0 <= start < stop <= 1; got {start}, {stop}")
    return start, stop


def between(negative: Conditioning, empty: Conditioning, span: tuple[float, float]) -> Conditioning:
    """`negative` within the span of the walk, and `empty` outside it."""
    start, stop = span
    back = ((stop, empty.text),) if stop < 1 else ()
    return replace(negative, turns=back) if start == 0 else replace(empty, turns=((start, negative.text), *back))


def _perturbed(guidance: Guidance, family: Family, settings: dict[str, Any]) -> Guidance:
    for name, make in PERTURBATIONS.items():
        neutral = 1.0 if name == "auto" else 0.0  # AutoGuidance is published with a scale that is 1 where it is off
        weight, layers = settings.pop(f"{name}_scale", neutral) - neutral, settings.pop(f"{name}_layers", ())
        layers = [str(layer) for layer in (layers if isinstance(layers, (list, tuple)) else str(layers).split(","))]
        span = {key: settings.pop(f"{name}_{key}") for key in ("start", "stop") if f"{name}_{key}" in settings}
        second = taken(AUTO, settings) if name == "auto" and AUTO in settings else None
        if not weight:
            continue
        if name == "slg" and not layers:
            raise UsageError("slg_scale needs slg_layers, the blocks to leave out, such as slg_layers=7,8,9")
        if name == "auto" and bool(layers) == bool(second):
            raise UsageError("auto_scale needs either auto_model, the path of a weaker model, or auto_layers, the "
                             "blocks to leave out of this one")  # fmt: skip
        patch = make(layers)
        if second is not None:
            dtype, device = str(family.dtype).removeprefix("torch."), str(family.device)
            patch = perturbation.instead(partial(denoiser, second, dtype, device))
        guidance = Perturbed(base=guidance, name=name, weight=weight, patch=patch, **span)
    return guidance


def _takes(guide: Callable[..., Guidance], name: str) -> bool:
    """Whether a guidance has a setting of that name; one that passes its settings on is made around CFG."""
    parameters = inspect.signature(guide).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return name in parameters or (passes_on and name in inspect.signature(CFG).parameters)
