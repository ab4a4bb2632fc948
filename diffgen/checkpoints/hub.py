"""Models from the Hugging Face hub: fetched only when asked, into the hub's ordinary cache, then read from there.

An interrupted download is taken up where it stopped: that is the cache's own doing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from diffgen.errors import CheckpointError

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PLAIN = (".json", ".txt", ".model", ".jinja")
_SHARD = re.compile(r"-\d+-of-\d+$")


def is_id(name: str) -> bool:
    """Whether a name may be a hub id, such as "stabilityai/sdxl-turbo", or that with a file name behind it."""
    head = "/".join(name.split("/")[:2])
    return bool(_ID.fullmatch(head)) and not name.startswith(("./", "../", "~")) and "\\" not in name


def locate(name: str, *, download: bool = False) -> Path:
    """The folder or file of a hub id in the hub's cache, fetched first where `download` allows it.

    Args:
        name: "owner/name" for a diffusers folder, "owner/name/path/in/it.safetensors" for one file.
    Raises:
        CheckpointError: it is not in the cache and must not be fetched, or cannot be.
    """
    repository, file = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    try:
        import huggingface_hub as hub
    except ImportError:
        raise CheckpointError(f"{name} is not a path, and hub ids need the package huggingface_hub") from None
    try:
        if not download:
            return Path(_cached(hub, repository, file))
        if file:
            return Path(hub.hf_hub_download(repository, file))
        wanted = chosen(hub.HfApi().list_repo_files(repository))
        return Path(hub.snapshot_download(repository, allow_patterns=wanted))
    except Exception as error:  # the hub has a dozen kinds, and so has the network below it
        if download:
            raise CheckpointError(f"{name} cannot be fetched from the hub: {str(error).splitlines()[0]}") from None
        raise CheckpointError(
            f"there is no model at {name}, and it is not in the hub's cache; nothing is fetched unless download=True "
            "(--download) says so"
        ) from None


def _cached(hub: object, repository: str, file: str) -> str:
    if file:
        return str(hub.hf_hub_download(repository, file, local_files_only=True))  # type: ignore[attr-defined]
    return str(hub.snapshot_download(repository, local_files_only=True))  # type: ignore[attr-defined]


def chosen(files: Iterable[str]) -> list[str]:
    """The files of a diffusers repository that are needed: configurations, tokenizers, one variant of all weights.

    Raises:
        CheckpointError: it is no diffusers repository.
    """
    names = sorted(files)
    if "model_index.json" not in names:
        singles = [name for name in names if name.endswith((".safetensors", ".gguf"))]
        told = f"; it has {', '.join(singles[:5])}: give one of them behind the id" if singles else ""
        raise CheckpointError(f"the repository is no diffusers folder{told}")
    wanted = []
    groups: dict[str, dict[tuple[str, bool], list[str]]] = {}
    for name in names:
        path = PurePosixPath(name)
        if len(path.parts) > 2 or path.parts[0] == "safety_checker":
            continue
        if path.suffix in _PLAIN:
            wanted.append(name)
        elif path.suffix == ".safetensors" and len(path.parts) == 2:
            whole = _SHARD.sub("", path.stem)
            group = groups.setdefault(path.parts[0], {})
            group.setdefault((whole.partition(".")[2], whole != path.stem), []).append(name)
    for group in groups.values():
        wanted += group[min(group)]
    return wanted
