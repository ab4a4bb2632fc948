"""Which clip task each family can do, told from its capabilities alone, and what would work where it cannot."""

from __future__ import annotations

from collections.abc import Iterable

from diffgen.contracts import Cap, LatentSpec
from diffgen.errors import UnsupportedError

CLIP_TASKS = {
    "text_to_video": "a clip from words",
    "image_to_video": "a clip that begins with a picture",
    "keyframes": "a clip with pictures at several of its frames",
    "video_to_video": "a clip drawn over another one",
    "extend": "a clip continued",
    "loop": "a clip without an end",
    "travel": "prompts that change with time",
    "interpolate": "more frames between those of a clip",
}
_MOTION = (
    "--motion MODULE makes clips with Stable Diffusion 1.x and SDXL; or give a clip model, such as Wan or LTX-Video"
)
_WORDS = "give a model that makes clips from words, such as Wan, LTX-Video, or Stable Diffusion with --motion"


def refusal(name: str, caps: frozenset[Cap], spec: LatentSpec, task: str) -> str | None:
    """Why a family cannot do a clip task, and what would work, in one sentence; None where it can."""
    words, picture = "text_to_video" in caps, "image_to_video" in caps
    if not (words or picture):
        return f"{name} cannot do {task}: it draws pictures only; {_MOTION}"
    if task == "text_to_video" and not words:
        return f"{name} cannot do {task}: it begins with a picture; give one with --from, or {_WORDS}"
    if task in ("loop", "travel") and not words:
        return f"{name} cannot do {task}: it begins with a picture and goes on from there; {_WORDS}"
    if task in ("keyframes", "interpolate") and "keyframes" not in caps and spec.frame_factor > 1:
        return (
            f"{name} cannot do {task}: one of its latents holds {spec.frame_factor} frames, so no later frame can be "
            "held by itself; it can begin with a picture (--from), and Stable Diffusion with --motion, SVD and Wan "
            "image-to-video can hold others"
        )
    return None


def check(name: str, caps: frozenset[Cap], spec: LatentSpec, task: str) -> None:
    """Refuses a clip task that the family cannot do.

    Raises:
        UnsupportedError: with the sentence of `refusal`.
    """
    if (sentence := refusal(name, caps, spec, task)) is not None:
        raise UnsupportedError(sentence)


def possible(name: str, caps: frozenset[Cap], spec: LatentSpec, tasks: Iterable[str] = CLIP_TASKS) -> tuple[str, ...]:
    """The clip tasks that the family can do."""
    return tuple(task for task in tasks if refusal(name, caps, spec, task) is None)
