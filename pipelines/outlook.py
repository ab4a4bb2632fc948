"""What a checkpoint can do with clips, told from its index or header, before a single weight is read."""

from __future__ import annotations

from pathlib import Path

from diffgen.checkpoints import find
from diffgen.checkpoints.components import read_json
from diffgen.contracts import Cap, LatentSpec
from diffgen.errors import DiffgenError
from diffgen.families import PIPELINES
from diffgen.pipelines import tasks

_WORDS: frozenset[Cap] = frozenset({"text_to_video"})
_PICTURE: frozenset[Cap] = frozenset({"image_to_video"})
_FRAMES: frozenset[Cap] = frozenset({"keyframes"})
# By diffusers' class: the most that a checkpoint of it can, and the frames of a latent. The configuration decides more
# closely, after loading. Classes that stand in no row draw pictures.
_MOST: dict[str, tuple[frozenset[Cap], int]] = {
    "AnimateDiffPipeline": (_WORDS, 1),
    "CogVideoXImageToVideoPipeline": (_PICTURE, 4),
    "CogVideoXPipeline": (_WORDS, 4),
    "HunyuanSkyreelsImageToVideoPipeline": (_PICTURE, 4),
    "HunyuanVideoPipeline": (_WORDS, 4),
    "LTXImageToVideoPipeline": (_WORDS | _PICTURE, 8),
    "LTXPipeline": (_WORDS | _PICTURE, 8),
    "MochiPipeline": (_WORDS, 6),
    "StableVideoDiffusionPipeline": (_PICTURE, 1),
    "WanImageToVideoPipeline": (_WORDS | _PICTURE | _FRAMES, 4),
    "WanPipeline": (_WORDS | _PICTURE, 4),
}


def check(model: str | Path, task: str, *, motion: bool = False) -> None:
    """Refuses a clip task that no checkpoint of this kind can do. Says nothing where the kind cannot be told.

    Args:
        model: as for `diffgen.load`.
        motion: whether a motion module comes with it.

    Raises:
        UnsupportedError: with a sentence on what would work.
    """
    try:
        kind = pipeline_of(find(model)[1])
    except DiffgenError:
        # It is yet to be fetched, or loading will say that it is not there.
        return
    if kind not in PIPELINES or (motion and kind not in _MOST):
        return
    caps, factor = _MOST.get(kind, (frozenset[Cap](), 1))
    tasks.check(PIPELINES[kind].replace("_", "-"), caps, LatentSpec(channels=1, frame_factor=factor), task)


def pipeline_of(path: Path) -> str | None:
    """diffusers' class for a folder or a single file; None where it cannot be told without reading more."""
    from diffgen.checkpoints.blueprint import blueprint
    from diffgen.checkpoints.headers import read_header
    from diffgen.checkpoints.recognise import recognise

    try:
        if path.is_dir():
            return str(read_json(path / "model_index.json").get("_class_name"))
        found = recognise(read_header(path))
        return blueprint(found[0].row.name).pipeline if found and found[0].row.layout else None
    except DiffgenError:
        # Loading will say what is wrong with it.
        return None
