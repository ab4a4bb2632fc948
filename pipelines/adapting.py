"""Adapters in recipes: what is written down of them, and what the adapters of a recipe do to a run.

A recipe's setting "adapters" is a list of tables: "name", "file" (a home folder is written "~"), "sha256", "strength",
and where they are not the usual "text_strength", "blocks" and "word". That a pickle may be read is never written down:
who draws a picture again has to allow it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffgen.adapters import Adapter, Applied, apply, as_adapters, find, from_tags, sha256
from diffgen.contracts import Family, Patch
from diffgen.errors import UsageError
from diffgen.prompts import extract_loras
from diffgen.recipe import Recipe

ADAPTERS = "adapters"

# SHA-256 of the pickles that were allowed in this process.
_ALLOWED: set[str] = set()


def settings(
    prompt: str, negative: str, adapters: Sequence[Adapter | str | Path], folders: Sequence[Path | str],
    *, allow_pickle: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The setting "adapters" for adapters given and asked for by `<lora:...>` tags in the prompt; {} where none are.

    Args:
        adapters: adapters, paths, or texts as for `diffgen.adapters.parse`.
        folders: where tags look for their files.
        allow_pickle: read those that are pickles, whoever asks for them.

    Raises:
        UsageError: a file is missing, a tag's name is unknown, or the negative prompt has a tag.
    """
    if extract_loras(negative)[1]:
        raise UsageError("the negative prompt has a LoRA tag; it acts on the whole picture, so write it in the prompt")
    chosen = (*as_adapters(adapters), *from_tags(extract_loras(prompt)[1], folders))
    if allow_pickle:
        chosen = tuple(replace(adapter, allow_pickle=True) for adapter in chosen)
    return {ADAPTERS: [_entry(adapter) for adapter in chosen]} if chosen else {}


def _entry(adapter: Adapter) -> dict[str, Any]:
    digest = sha256(adapter.file)
    if adapter.allow_pickle:
        _ALLOWED.add(digest)
    file = adapter.file.absolute()
    # A picture that is passed on should not tell who drew it.
    shown = Path("~") / file.relative_to(Path.home()) if file.is_relative_to(Path.home()) else file
    given = {"text_strength": adapter.text_strength, "blocks": dict(adapter.blocks), "word": adapter.word}
    return {
        "name": adapter.name, "file": shown.as_posix(), "sha256": digest, "strength": adapter.strength,
        **{name: value for name, value in given.items() if value not in (None, {})},
    }  # fmt: skip


def of(recipe: Recipe) -> tuple[Adapter, ...]:
    """The adapters of a recipe.

    Raises:
        UsageError: an entry is malformed, its file is missing, or it is another file than the one that was used.
    """
    entries = recipe.settings.get(ADAPTERS, [])
    if not isinstance(entries, list):
        raise UsageError(f"the recipe's adapters must be a list of tables; got {entries!r}")
    return tuple(_adapter(entry) for entry in entries)


def _adapter(entry: Any) -> Adapter:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
        raise UsageError(f"an adapter in a recipe is a table with a file; got {entry!r}")
    blocks = entry.get("blocks", {})
    if not isinstance(blocks, Mapping) or not isinstance(entry.get("word", ""), str):
        raise UsageError(f"the blocks of an adapter are a table, and its word is a text; got {entry!r}")
    digest, named = entry.get("sha256"), entry.get("name", entry["file"])
    adapter = Adapter(
        Path(entry["file"]), strength=entry.get("strength", 1.0), text_strength=entry.get("text_strength"),
        blocks=blocks, word=entry.get("word"), allow_pickle=digest in _ALLOWED,
    )  # fmt: skip
    if not adapter.path.exists():
        raise UsageError(f"the recipe needs the adapter {named!r}, and there is none at {entry['file']}")
    found = sha256(adapter.file)
    if digest is not None and digest != found:
        raise UsageError(
            f"{adapter.file} is not the adapter of the recipe: its SHA-256 is {found[:12]}, not {str(digest)[:12]}"
        )
    return adapter


def located(recipe: Recipe, folders: Sequence[Path | str] = (), *, allow_pickle: bool = False) -> Recipe:
    """The recipe with the adapters that are not where it says looked for by name in other folders.

    Args:
        allow_pickle: read the adapters among them that are pickles.

    Raises:
        UsageError: one is not there either.
    """
    entries = recipe.settings.get(ADAPTERS, [])
    moved = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping) and isinstance(entry.get("file"), str):
            if folders and not Path(entry["file"]).expanduser().exists():
                entry = {**entry, "file": str(find(str(entry.get("name", "")), folders))}
            if allow_pickle and isinstance(entry.get("sha256"), str):
                _ALLOWED.add(entry["sha256"])
        moved.append(entry)
    return replace(recipe, settings={**recipe.settings, ADAPTERS: moved}) if moved else recipe


def applied(recipe: Recipe, family: Family) -> Applied:
    """The recipe's adapters on a family.

    Raises:
        UsageError: as `of` and `diffgen.adapters.apply`.
    """
    return apply(of(recipe), family)


def patches(recipe: Recipe, family: Family) -> tuple[Patch, ...]:
    """What the recipe's adapters do to the denoisers: a plan's `patches`."""
    return applied(recipe, family).drawing


@contextmanager
def reading(recipe: Recipe, family: Family) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(prompt, negative prompt, notes): the prompts without tags, while the text encoders are as the adapters want."""
    (prompt, tags), (negative, _) = extract_loras(recipe.prompt), extract_loras(recipe.negative)
    ready = applied(recipe, family)
    notes = ready.notes(prompt, negative)
    if tags and not recipe.settings.get(ADAPTERS):
        notes = (*notes, f"the LoRA {tags[0].name!r} in the prompt was not used: the recipe does not say where it is")
    with ExitStack() as stack:
        for patch in ready.text:
            stack.enter_context(patch(family.components))
        yield prompt, negative, notes
