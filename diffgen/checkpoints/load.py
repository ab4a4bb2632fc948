"""The one door to a checkpoint: a name or a path in, a `Model` out.

torch and the network libraries are imported by `load` itself, so that finding and naming models costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diffgen.checkpoints.box import BOX, asset
from diffgen.checkpoints.deferred import defer, undisturbed
from diffgen.checkpoints.fingerprint import fingerprint
from diffgen.checkpoints.motion import motion_path
from diffgen.checkpoints.replaced import record
from diffgen.contracts import Family
from diffgen.errors import CheckpointError, UsageError, unknown

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
PREDICTIONS = ("epsilon", "v_prediction")
_SHORT = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16"}


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint: its family, and where it came from.

    Attributes:
        path: the file or folder with the denoiser.
        others: files and folders that gave further parts, in a fixed order.
        notes: what was found in the files and not used.
        given: what `load` was given besides the path, by the names of its arguments.
    """

    family: Family
    name: str
    path: Path
    others: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def parts(self) -> dict[str, Any]:
        """What was loaded in place of the checkpoint's own, with hashes; part of every recipe where it is not empty."""
        return record(self.given)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the weights, in hex; part of every recipe."""
        return fingerprint(self.path, *self.others)


def find(model: str | Path | None, *, download: bool = False) -> tuple[str, Path]:
    """(name, path) of a model: None or "box" is the model in the box, anything else a path or a hub id.

    Args:
        download: whether a hub id may be fetched; one that was fetched before is found without.
    Raises:
        CheckpointError: there is nothing at that path.
    """
    if model is None or str(model) == BOX:
        return BOX, asset(BOX)
    path = Path(model).expanduser()
    if not path.exists():
        from diffgen.checkpoints import hub

        if not hub.is_id(str(model)):
            raise CheckpointError(
                f"there is no model at {path}; give 'box', or the path of a weight file or a diffusers folder"
            )
        return str(model).rpartition("/")[2], hub.locate(str(model), download=download)
    return path.resolve().stem if path.is_file() else path.resolve().name, path


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, then MPS, then the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda", "mps"]) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r} was asked for, and this machine has no CUDA device; accepted: cpu, auto")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is float32 on the CPU, else bfloat16 where it is native, else float16."""
    import torch

    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    dtype: torch.dtype = getattr(torch, dtype_name(name))
    return dtype


def dtype_name(name: str) -> str:
    """The full name of a dtype given by its full or short name.

    Raises:
        UsageError: there is no such dtype.
    """
    full = _SHORT.get(name, name)
    if full not in DTYPES:
        raise unknown("dtype", name, ["auto", *DTYPES, *_SHORT])
    return full


@undisturbed()
def load(
    model: str | Path | None = None, *, dtype: str = "auto", device: str = "auto", vae: str | Path | None = None,
    text_encoder: str | Path | Sequence[str | Path] | None = None, image_encoder: str | Path | None = None,
    denoiser_2: str | Path | None = None, tokenizer: str | Path | None = None, config: str | Path | None = None,
    motion: str | Path | None = None, kind: str | None = None, prediction: str | None = None, strict: bool = False,
    allow_pickle: bool = False, download: bool = False,
) -> Model:  # fmt: skip
    """Loads a checkpoint: a diffusers folder, a single file in its original layout, or several files together.

    Args:
        model: None or "box" for the model in the box, else the path of a folder, or of the file with the denoiser.
        dtype: "auto", "float32", "bfloat16", "float16" or a short name such as "bf16".
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        vae, text_encoder, image_encoder: files or folders whose parts are taken in place of the model's own.
        denoiser_2: the second expert's file, of models that have two (Wan 2.2 A14B: the one for low noise).
        tokenizer: a folder, spiece.model or tokenizer.json, for text encoders whose file brings none.
        config: a diffusers folder with the configurations, for a file of sizes that were never published.
        motion: the folder of a motion module (diffusers' MotionAdapter) or a file of AnimateDiff's own, with which a
            picture model draws clips; "box" is the one of the model in the box.
        kind: which model it is, where files of several have the same tensors, such as "flux-kontext".
        prediction: "epsilon" or "v_prediction", where a file does not say which.
        strict: whether tensors that are not used are an error. Missing ones always are.
        allow_pickle: whether a file may be a pickle; only tensors and plain values are read from it.
        download: whether a hub id may be fetched.

    Raises:
        CheckpointError: it is missing, damaged, incomplete, or of a kind diffgen does not know.
        UsageError: the dtype, device or prediction is unknown.
    """
    from diffgen import families
    from diffgen.checkpoints.folder import read_folder
    from diffgen.checkpoints.single import Files, read_files, read_given

    name, path = find(model, download=download)
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    texts = [text_encoder] if isinstance(text_encoder, str | Path) else list(text_encoder or ())
    files = Files(
        main=path, denoiser_2=_path(denoiser_2), vae=_path(vae),
        text_encoder=[Path(text).expanduser() for text in texts], image_encoder=_path(image_encoder),
        tokenizer=_path(tokenizer), config=_path(config), kind=kind, prediction=prediction_name(prediction),
        allow_pickle=allow_pickle,
    )  # fmt: skip
    defer()
    with _no_progress_bars():
        if path.is_file():
            parts, notes = read_files(files, precision, place)
        else:
            given, notes = read_given(files, precision, place)
            parts = read_folder(path, precision, place, given, files.prediction)
    if strict and notes:
        raise CheckpointError(f"{path}: {'; '.join(notes)} (strict)")
    family = families.build(parts)
    adapter = None if motion is None else motion_path(motion)
    if adapter is not None:
        from diffgen.checkpoints.motion import read_motion
        from diffgen.families.animatediff import with_motion

        family = cast(Family, with_motion(family, read_motion(adapter, precision, place, allow_pickle=allow_pickle)))
    given = {"vae": files.vae, "text_encoder": files.text_encoder, "image_encoder": files.image_encoder,
             "denoiser_2": files.denoiser_2, "tokenizer": files.tokenizer, "config": files.config, "motion": motion,
             "kind": kind, "prediction": files.prediction}  # fmt: skip
    others = files.all[1:] if adapter is None else (*files.all[1:], adapter)
    return Model(_with_own_defaults(path, family), name, path, others, notes, given)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given).expanduser()


def prediction_name(given: str | None) -> str | None:
    """The full name of a prediction given by its full or short name; None stays None.

    Raises:
        UsageError: there is no such prediction.
    """
    if given is None:
        return None
    full = {"eps": "epsilon", "v": "v_prediction"}.get(given, given)
    if full not in PREDICTIONS:
        raise unknown("prediction", given, PREDICTIONS)
    return full


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws a bar for every encoder it loads, on a standard error that is not its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _with_own_defaults(path: Path, family: Family) -> Family:
    """The family with the checkpoint's own choice in `diffgen.json`, over what its scheduler config implies."""
    file = path / "diffgen.json"
    if not file.is_file():
        return family
    from diffgen.checkpoints.components import read_json

    given = read_json(file)
    known = {key: given[key] for key in ("sampler", "schedule", "steps", "guidance", "settings") if key in given}
    if "schedule" in known:
        known.setdefault("settings", {})
    return replace(cast(Any, family), defaults=replace(family.defaults, **known))
