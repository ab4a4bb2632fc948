r"""The prompt language: what a person types, as text and weights. Pure text; no network and no tokenizer.

| written | means |
|---|---|
| `(word)`, `((word))` | weight 1.1, 1.21 |
| `[word]` | weight 1 / 1.1 |
| `(word:1.3)` | weight 1.3; nesting multiplies |
| `\(` `\)` `\[` `\]` `\\` | the character itself; any other backslash vanishes |
| `BREAK` | ends the chunk of 75 tokens here |
| `[from:to:when]`, `[to:when]`, `[from::when]` | changes the text after step `when` (see prompt_editing) |
| `[a\|b]` | takes turns, one option a step |
| `<lora:name:0.8>` | a LoRA tag (see `extract_loras`) |

The reference behaviour is AUTOMATIC1111's webui 1.10 (`modules/prompt_parser.py`, `extra_networks.py`).
Two deliberate differences: BREAK inside brackets is still a break, where the webui turns it into a word of
negative weight, and `(a:1.2.3)` is text, where the webui stops with an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from diffgen.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of prompt of one weight.

    Args:
        text: what is tokenised, escapes already taken out; "" for a break.
        weight: multiplies the text's embeddings; 1.0 leaves them alone, negative values are allowed.
        is_break: True for BREAK, which ends the chunk; text and weight then mean nothing.
    """

    text: str
    weight: float = 1.0
    is_break: bool = False


BREAK = Span(text="", is_break=True)


@dataclass(frozen=True, kw_only=True)
class LoraTag:
    """`<lora:name:te:unet>`: the strength on text encoder and denoiser, both 1.0 when not given.

    `blocks` is what stands behind "lbw=", the block weights, in A1111's words.
    """

    name: str
    unet: float = 1.0
    te: float = 1.0
    blocks: str = ""


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_PIECE = re.compile(
    rf"\\(?P<escaped>[()\[\]\\]?)|(?P<open>[(\[])|:\s*(?P<weight>{_NUMBER})\s*\)|(?P<close>[)\]])"
    r"|(?P<plain>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_CLOSES = {")": "(", "]": "["}
_FACTOR = {"(": 1.1, "[": 1 / 1.1}


def parse(text: str) -> tuple[Span, ...]:
    """Attention syntax to weighted spans; never raises, whatever the text.

    Neighbours of equal weight are joined, as the reference does, because it tokenises span by span. A bracket
    left open reaches to the end; one that closes nothing is text.

    Returns: at least one span; a prompt without special characters is one span of weight 1.0.

    >>> [(s.text, s.weight) for s in parse("an (important) word")]
    [('an ', 1.0), ('important', 1.1), (' word', 1.0)]
    """
    texts: list[str | None] = []  # None is a break
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def scale(start: int, factor: float) -> None:
        for k in range(start, len(weights)):
            weights[k] *= factor

    for found in _PIECE.finditer(text):
        kind, piece = found.lastgroup, found[0]
        if kind == "open":
            opened[piece].append(len(texts))
        elif kind == "weight" and opened["("]:
            scale(opened["("].pop(), float(found["weight"]))
        elif kind == "close" and opened[_CLOSES[piece]]:
            scale(opened[_CLOSES[piece]].pop(), _FACTOR[_CLOSES[piece]])
        else:
            parts = [found["escaped"]] if kind == "escaped" else _BREAK.split(piece)
            for k, part in enumerate(parts):
                texts += [None, part] if k else [part]
            weights += [1.0] * (len(texts) - len(weights))
    for bracket, starts in opened.items():
        for start in starts:
            scale(start, _FACTOR[bracket])
    return _join(texts, weights)


def _join(texts: list[str | None], weights: list[float]) -> tuple[Span, ...]:
    spans: list[Span] = []
    for text, weight in zip(texts, weights, strict=True):
        if text is None:
            spans.append(BREAK)
        elif text and spans and not spans[-1].is_break and spans[-1].weight == weight:
            spans[-1] = Span(text=spans[-1].text + text, weight=weight)
        elif text:
            spans.append(Span(text=text, weight=weight))
    return tuple(spans) or (Span(text=""),)


def escape(text: str) -> str:
    r"""The prompt that means exactly `text`: `parse(escape(text)) == (Span(text=text),)`.

    For captions and file names that may hold brackets. A backslash inside BREAK keeps it a plain word.

    >>> escape("a (b)")
    'a \\(b\\)'
    """
    return re.sub(r"\bBREAK\b", r"B\\REAK", re.sub(r"([()\[\]\\])", r"\\\1", text))


_LORA = re.compile(r"<(?:lora|lyco):([^<>]+)>")


def extract_loras(text: str) -> tuple[str, tuple[LoraTag, ...]]:
    """Take the LoRA tags out of a prompt.

    `<lora:name>`, `<lora:name:0.8>` (both strengths), `<lora:name:te:unet>` in the webui's order, and by
    name `<lora:name:te=0.5:unet=1>`; `lbw=` brings block weights. Tags stay in the order written; a name may
    occur twice. Any other `<...>` is text.

    Returns: the text without the tags, spaces around them kept, and the tags.
    Raises:
        UsageError: a strength is not a finite number, or an option is unknown.
    """
    tags = tuple(_lora(found[0], found[1].split(":")) for found in _LORA.finditer(text))
    return _LORA.sub("", text), tags


def _lora(tag: str, fields: list[str]) -> LoraTag:
    name, *rest = (field.strip() for field in fields)
    strengths: dict[str, float] = {}
    blocks = "".join(field[4:] for field in rest if field.startswith("lbw="))
    for position, field in enumerate(field for field in rest if not field.startswith("lbw=")):
        key, given, value = field.rpartition("=")
        key = key if given else ("te", "unet", "")[min(position, 2)]
        if key not in ("te", "unet"):
            raise UsageError(f"{tag} has the unknown field {field!r}; write <lora:name:te:unet>")
        try:
            strengths[key] = float(value)
        except ValueError:
            strengths[key] = math.nan
        if not math.isfinite(strengths[key]):
            raise UsageError(f"{tag} has the strength {value!r}, not a number; write <lora:{name}:0.8>")
    if not name:
        raise UsageError(f"{tag} names no LoRA; write <lora:name:0.8>")
    te = strengths.get("te", 1.0)
    return LoraTag(name=name, te=te, unet=strengths.get("unet", te), blocks=blocks)
