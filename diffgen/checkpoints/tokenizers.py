"""Tokenizers for files that bring none: CLIP's and Qwen's are carried, T5's kind is read from where it can be found."""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffgen.checkpoints.tensors import Source
from diffgen.errors import CheckpointError

FOLDER = Path(__file__).parent / "configs" / "tokenizers"
# Qwen's control tokens in the order of their numbers, behind the vocabulary.
_QWEN = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
_QWEN_WORDS = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip


def clip_tokenizer(pad: str = "<|endoftext|>") -> Any:
    """CLIP's tokenizer, 49,408 tokens, 77 a chunk, padding with `pad`."""
    from transformers import CLIPTokenizer

    merges = _merges("clip")
    letters = _letters()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {piece: k for k, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


def qwen_tokenizer() -> Any:
    """Qwen 3's tokenizer with its chat template, 151,669 tokens."""
    from transformers import AddedToken, Qwen2Tokenizer

    merges = _merges("qwen3")
    # Control tokens stand in the vocabulary, because the library numbers new ones in an order of its own.
    pieces = [*_letters(), *("".join(pair) for pair in merges), *_QWEN, *_QWEN_WORDS]
    vocabulary = {piece: k for k, piece in enumerate(pieces)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, pad_token=_QWEN[0], eos_token=_QWEN[2], extra_special_tokens=_QWEN[1:],
        chat_template=(FOLDER / "qwen3-chat.jinja").read_text(encoding="utf-8"), model_max_length=131072,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in _QWEN_WORDS])
    return tokenizer


def _merges(name: str) -> Any:
    """Pairs of pieces; typed loosely, because the library's own annotation leaves pairs out."""
    text = lzma.decompress((FOLDER / f"{name}-merges.txt.xz").read_bytes()).decode("utf-8")
    pairs = (line.split(" ") for line in text.split("\n"))
    return [(first, second) for first, second in pairs]


def _letters() -> list[str]:
    """The 256 bytes as GPT-2 writes them: printable ones as themselves and first, the rest moved up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + k) for k in range(len(rest))]


def sentencepiece_tokenizer(spec: Mapping[str, Any], places: Iterable[Any], sources: Sequence[Source]) -> Any:
    """A T5 tokenizer, from a place the user named, or from inside the text encoder's file, as ComfyUI stores it.

    Args:
        spec: "kind", the transformers class; "of", the model it belongs to; "length", tokens it allows.
        places: folders, or files such as spiece.model and tokenizer.json.
    Raises:
        CheckpointError: there is none.
    """
    for place in places:
        return tokenizer_at(Path(place), spec)
    for source in sources:
        entries = source.header.entries
        name = next((key for key in entries if key.rpartition(".")[2] == "spiece_model"), None)
        if name is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "spiece.model").write_bytes(source.get(name, None, None).numpy().tobytes())
            return tokenizer_at(Path(folder), spec)
    files = " or ".join(str(source.header.path) for source in sources) or "the checkpoint"
    raise CheckpointError(
        f"{files} has no tokenizer of {spec['of']}; give a folder, spiece.model or tokenizer.json with tokenizer=... "
        "(--tokenizer), or a diffusers folder with config=... (--config). It is a small file beside the text encoder "
        "where that was published; files that ComfyUI's users hold often leave it out"
    )


def tokenizer_at(place: Path, spec: Mapping[str, Any]) -> Any:
    """The tokenizer in a folder, or beside or in a file.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    import transformers

    from diffgen.checkpoints.folder import check_sentencepiece

    if not place.exists():
        raise CheckpointError(f"there is no tokenizer at {place}")
    if place.is_file() and place.name not in {"spiece.model", "tokenizer.json", "tokenizer.model"}:
        raise CheckpointError(f"{place} is no tokenizer; accepted: a folder, spiece.model, tokenizer.json")
    folder = place if place.is_dir() else place.parent
    check_sentencepiece(folder)
    try:
        kind = getattr(transformers, spec.get("kind", "AutoTokenizer"))
        if not (folder / "tokenizer_config.json").is_file() and spec.get("length"):
            return kind.from_pretrained(folder, local_files_only=True, model_max_length=spec["length"])
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        model = spec.get("of", "this model")
        raise CheckpointError(f"{place} cannot be read as the tokenizer of {model}: {error}") from None


CARRIED = {"clip": clip_tokenizer, "qwen3": qwen_tokenizer}
