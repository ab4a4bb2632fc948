"""Textual inversion (2208.01618): a word in prompts stands for vectors that were learnt for it.

While the patch is on, the text encoder's table has the vectors as further rows, and its tokenizer gives their
numbers for the word. The numbers are negative: CLIP encoders with the published configuration take the highest
number of a row for its end, which a further token at the end of the vocabulary would be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgen.adapters.adapter import Adapter
from diffgen.adapters.files import Contents
from diffgen.adapters.keys import groups_of
from diffgen.contracts import Components, Family, Patch
from diffgen.errors import UsageError

# The part of an SDXL or SD 3 embedding -> the component whose vectors it holds.
_PARTS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# How A1111 begins the one entry of a .pt file, and its key for a .safetensors file.
_A1111 = ("string_to_param.", "emb_params")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word, its vectors [count, width] by text encoder, and the keys of the file that they come from."""

    text: str
    vectors: Mapping[str, Tensor]
    keys: frozenset[str]

    @property
    def pattern(self) -> str:
        """A regular expression for the word standing by itself."""
        left, right = (r"(?<!\w)" if self.text[0].isalnum() else "", r"(?!\w)" if self.text[-1].isalnum() else "")
        return left + re.escape(self.text) + right

    def within(self, prompt: str) -> bool:
        """Whether a prompt has the word; CLIP does not tell large letters from small ones."""
        return re.search(self.pattern, prompt, re.IGNORECASE) is not None


def is_embedding(contents: Contents) -> bool:
    """Whether a file holds an embedding and no LoRA."""
    keys = set(contents.shapes)
    if keys & {*_PARTS, _A1111[1]} or any(key.startswith(_A1111[0]) for key in keys):
        return True
    # diffusers' learned_embeds: one tensor, named by the word itself.
    [(key, shape), *more] = contents.shapes.items()
    groups, _ = groups_of([key], {})
    return not more and not groups and len(shape) in (1, 2) and not key.endswith(".weight")


def read_word(adapter: Adapter, contents: Contents, family: Family) -> Word:
    """The word of an embedding file, with vectors for every CLIP text encoder of the family.

    Raises:
        UsageError: it has none for one of them, or a strength or block weights, which an embedding has no use for.
    """
    if adapter.strength != 1 or adapter.text_strength not in (None, 1) or adapter.blocks:
        raise UsageError(f"{contents.file.name} is an embedding, which has no strength; write (word:0.8) in the prompt")
    whole = next((key for key in contents.shapes if key.startswith(_A1111)), next(iter(contents.shapes)))
    parts = {owner: part for part, owner in _PARTS.items() if part in contents.shapes}
    vectors, keys = {}, set()
    for component in readers(family):
        key = parts.get(component, "") if parts else whole
        width = family.components[component].get_input_embeddings().weight.shape[1]
        found = contents.read(key) if key else torch.empty(0, 0)
        if found.shape[-1] != width:
            raise UsageError(
                f"{contents.file.name} has vectors of {found.shape[-1]} numbers for the {component}, which reads "
                f"{width}; it was made for another kind of model"
            )
        vectors[component] = found.reshape(-1, width)
        keys.add(key)
    if not vectors:
        raise UsageError(f"{contents.file.name} is an embedding, and {family.name} has no CLIP text encoder to read it")
    named = "" if parts or whole.startswith(_A1111) else whole
    return Word(text=adapter.word or named or adapter.name, vectors=vectors, keys=frozenset(keys))


def readers(family: Any) -> dict[str, Any]:
    """The tokenizers of the family's CLIP text encoders, by the encoder's component name.

    Other encoders read the word as ordinary text: no embeddings are trained for them.
    """
    pairs = list(zip(getattr(family, "encoders", ()), getattr(family, "tokenizers", ()), strict=True))
    found = {}
    for name, network in family.components.items():
        if name.startswith("text_encoder") and type(network).__name__.startswith("CLIPText"):
            known = next((tokenizer for encoder, tokenizer in pairs if encoder is network), None)
            found[name] = known or getattr(family, name.replace("text_encoder", "tokenizer"))
    return found


def taught(component: str, tokenizer: Any, words: Sequence[Word]) -> Patch:
    """A patch that teaches words to one text encoder and its tokenizer, and makes both what they were."""

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        table = components[component].get_input_embeddings()
        size, before, kind = table.weight.shape[0], table.weight.data, type(tokenizer)
        numbers: dict[str, list[int]] = {}
        taken = 0
        for word in words:
            count = word.vectors[component].shape[0]
            numbers[word.text.lower()] = [-1 - taken - k for k in range(count)]
            taken += count

        def behind(_module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            ids = inputs[0]
            return (torch.where(ids < 0, size - 1 - ids, ids), *inputs[1:])

        with ExitStack() as stack:
            stack.callback(setattr, table.weight, "data", before)
            with torch.inference_mode(False), torch.no_grad():
                rows = [word.vectors[component].to(before.device, before.dtype) for word in words]
                table.weight.data = torch.cat([before, *rows])
            stack.callback(table.register_forward_pre_hook(behind).remove)
            stack.callback(setattr, tokenizer, "__class__", kind)
            tokenizer.__class__ = _reading(kind, [word.pattern for word in words], numbers)
            yield

    return patch


def _reading(kind: type, patterns: Sequence[str], numbers: Mapping[str, list[int]]) -> type:
    """The tokenizer's class, except that words have numbers of their own. Its own vocabulary stays untouched.

    Only what the prompt language asks for is changed: bare texts, without a frame, and reading numbers back.
    """
    # The longest first, so that "style" does not take the beginning of "style-2".
    either = re.compile(f"({'|'.join(sorted(patterns, key=len, reverse=True))})", re.IGNORECASE)
    named = {number: word for word, own in numbers.items() for number in own[:1]}

    def call(self: Any, text: Any, *args: Any, **options: Any) -> Any:
        plain = kind.__call__  # type: ignore[misc]
        found = plain(self, text, *args, **options)
        if isinstance(text, str) or options.get("add_special_tokens", True):
            return found
        for k, one in enumerate(text):
            parts = either.split(one)
            if len(parts) > 1:
                ids = [numbers[part.lower()] if at % 2 else _ids(plain, self, part) for at, part in enumerate(parts)]
                found["input_ids"][k] = [number for own in ids for number in own]
        return found

    def decode(self: Any, ids: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(ids, (list, tuple)) or all(number >= 0 for number in ids):
            return kind.decode(self, ids, *args, **options)  # type: ignore[attr-defined]
        texts = [
            named.get(number, "") if number < 0 else kind.decode(self, [number], *args, **options)  # type: ignore[attr-defined]
            for number in ids
        ]
        return "".join(texts)

    return type(kind.__name__, (kind,), {"__call__": call, "decode": decode})


def _ids(plain: Any, tokenizer: Any, text: str) -> list[int]:
    return list(plain(tokenizer, [text], add_special_tokens=False, truncation=False, verbose=False)["input_ids"][0])
