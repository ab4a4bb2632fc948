"""The architecture's promises, read from the source: who imports whom, and what the engine knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUTER = {"pipelines": "diffgen.pipelines", "train": "diffgen.train", "assets": "diffgen.assets"}
NETWORKS = {"diffusers", "transformers", "peft", "xformers", "accelerate"}

# Lower may not import higher. Modules of one level may import each other.
LEVELS = [
    {"diffgen.errors", "diffgen.path"},
    {"diffgen.contracts"},
    {"diffgen.noise", "diffgen.schedules", "diffgen.samplers", "diffgen.guidance", "diffgen.wrappers"},
    {"diffgen.engine"},
    {"diffgen.families", "diffgen.control", "diffgen.adapters", "diffgen.caching", "diffgen.attention",
     "diffgen.kernels", "diffgen.perturbation"},
    {"diffgen.checkpoints", "diffgen.memory"},
    {"diffgen.pipelines", "diffgen.train"},
    {"diffgen.app"},
]


def sources() -> Iterator[tuple[str, Path]]:
    for top in ("diffgen", *OUTER):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield next((full + name[len(key) :] for key, full in OUTER.items() if name.split(".")[0] == key), name), file


def imports(file: Path, *, only_top: bool = False) -> set[str]:
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in tree.body if only_top else ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def level(name: str) -> int | None:
    for height, members in enumerate(LEVELS):
        if any(name == member or name.startswith(member + ".") for member in members):
            return height
    return None


@pytest.mark.parametrize(("name", "file"), list(sources()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_run_downward(name: str, file: Path) -> None:
    own = level(name)
    if own is None:
        own = level("diffgen.pipelines") if name == "diffgen" else 0 if name == "diffgen.assets" else None
    for other in imports(file):
        theirs = level(other)
        if own is not None and theirs is not None:
            assert theirs <= own, f"{name} imports {other}, which stands above it"
        if own is None and theirs is not None and name.startswith("diffgen."):
            # Leaves such as media and recipe may use the core, never what stands above the families.
            assert other.split(".")[1] not in {"pipelines", "train", "app"}, f"{name} imports {other}"


@pytest.mark.parametrize(("name", "file"), list(sources()), ids=lambda value: value if isinstance(value, str) else "")
def test_only_the_adapters_know_the_network_libraries(name: str, file: Path) -> None:
    allowed = ("diffgen.families", "diffgen.control", "diffgen.adapters", "diffgen.caching", "diffgen.attention",
               "diffgen.perturbation", "diffgen.checkpoints", "diffgen.train")  # fmt: skip
    if not name.startswith(allowed):
        assert not {other.split(".")[0] for other in imports(file)} & NETWORKS


def test_the_engine_names_no_family() -> None:
    families = {file.stem for file in (ROOT / "diffgen" / "families").glob("*.py")} - {"__init__", "common"}
    text = (ROOT / "diffgen" / "engine.py").read_text().lower()
    assert families
    for name in families | {"flux", "sdxl", "wan", "unet"}:
        assert not re.search(rf"\b{name}\b", text)


@pytest.mark.parametrize(("name", "file"), list(sources()), ids=lambda value: value if isinstance(value, str) else "")
def test_files_keep_to_their_room(name: str, file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= (150 if name.startswith("diffgen.pipelines") else 320), f"{file.name} has {lines} lines"
