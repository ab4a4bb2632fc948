"""A diffusers folder, read component by component as its model_index.json lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.components import load_network, load_transformer, read_json
from diffgen.errors import CheckpointError
from diffgen.families.common import Parts

# Loaded by no family: a safety checker is another model's verdict on the picture, not part of making it.
SKIPPED = {"safety_checker"}
# Names that older folders use, and the class that took their place.
RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}
# Classes that stand beside a pipeline, which an index names by that pipeline's folder.
BESIDE = {("flux", "ReduxImageEncoder"): "diffusers.pipelines.flux.modeling_flux"}


def read_folder(
    folder: Path, dtype: torch.dtype, device: torch.device, given: Mapping[str, Any] | None = None,
    prediction: str | None = None,
) -> Parts:  # fmt: skip
    """The parts of a diffusers folder.

    Args:
        given: components that take the place of the folder's own.
        prediction: takes the place of the one in the scheduler's configuration.
    Raises:
        CheckpointError: the index, a component or a class is missing, damaged or unknown.
    """
    index = read_json(folder / "model_index.json")
    present = {name: entry for name, entry in index.items() if isinstance(entry, list) and None not in entry}
    # Without a network that looks at pictures, the feature extractor served the safety checker alone.
    skipped = SKIPPED if "image_encoder" in present else SKIPPED | {"feature_extractor"}
    components: dict[str, Any] = dict(given or {})
    configs: dict[str, Mapping[str, Any]] = {}
    for name, (library, kind) in present.items():
        if name.startswith("_") or name in skipped or name in components:
            continue
        if name.endswith("scheduler"):
            config = read_json(folder / name / "scheduler_config.json")
            configs[name] = {"_class_name": kind, **config, **({"prediction_type": prediction} if prediction else {})}
        else:
            components[name] = read_component(library, kind, folder / name, dtype, device)
    return Parts(origin=folder, index=index, components=components, configs=configs)


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What a processor of transformers bundles: a tokenizer, and what prepares pictures (None where nothing does).

    Each is made alone, because the bundle also wants what only clips need, such as torchvision.
    """

    tokenizer: Any
    image_processor: Any = None


def _processor(folder: Path) -> Processor:
    from transformers import AutoImageProcessor, AutoTokenizer

    bundle = folder / "processor_config.json"
    sees = (folder / "preprocessor_config.json").is_file() or (
        bundle.is_file() and "image_processor" in read_json(bundle)
    )
    return Processor(
        tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True),
        image_processor=AutoImageProcessor.from_pretrained(folder, local_files_only=True) if sees else None,
    )


def _is_bundle(kind: str) -> bool:
    return kind.endswith("Processor") and not kind.endswith(("ImageProcessor", "VideoProcessor"))


def read_component(library: str, kind: str, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """One component. Only classes of diffusers and transformers are built: nothing from the folder is run."""
    library = BESIDE.get((library, kind), library)
    if library not in {"diffusers", "transformers", *BESIDE.values()}:
        raise CheckpointError(f"{folder} needs a class of {library!r}; accepted: diffusers, transformers")
    if _is_bundle(kind):
        return _read(folder, kind, lambda: _processor(folder))
    found = getattr(import_module(library), RENAMED.get(kind, kind), None)
    if found is None:
        raise CheckpointError(f"{folder} needs {library}.{kind}, which the installed {library} does not have")
    if hasattr(found, "from_config"):
        return load_network(found, folder, dtype, device)
    if issubclass(found, torch.nn.Module):
        return load_transformer(found, folder, dtype, device)
    return _read(folder, kind, lambda: found.from_pretrained(folder, local_files_only=True))


def _read(folder: Path, kind: str, reader: Callable[[], Any]) -> Any:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing; model_index.json lists a {kind} there")
    check_sentencepiece(folder)
    try:
        return reader()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be read as {kind}: {error}") from None


def check_sentencepiece(folder: Path) -> None:
    """Names what is missing to read a tokenizer that is only a sentencepiece model; transformers names tiktoken."""
    if (folder / "tokenizer.json").exists() or not any(folder.glob("*.model")):
        return
    for module, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
        try:
            import_module(module)
        except ImportError:
            raise CheckpointError(f"{folder} is a sentencepiece model; to read it, pip install {package}") from None
