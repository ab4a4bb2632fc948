"""What was picked for one dtype on this machine, as data and as the short text that recipes keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from diffgen.attention import CLASSES, Route
from diffgen.errors import UsageError, unknown

OFF = "off"
_WORDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("plain", "packed"), "conv": ("plain", "channels_last", "packed"), "blocks": ("plain", "fused"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the layers of a network are computed. The default changes nothing.

    Attributes:
        linear: "packed" lays weights out once for oneDNN.
        conv: "packed" the same, on channels_last pictures; "channels_last" is that layout alone.
        blocks: "fused" joins activations and sums to the product before them.
        attention: a class of shapes (`diffgen.attention.class_of`) -> its route; absent is the library's own.
    """

    linear: str = "plain"
    conv: str = "plain"
    blocks: str = "plain"
    attention: Mapping[str, Route] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether anything is done otherwise than by torch itself."""
        return self != Choice()

    def to_text(self) -> str:
        """Such as "linear=packed conv=packed blocks=fused long-narrow=chunked", or "off" where nothing changes.

        >>> Choice(linear="packed").to_text()
        'linear=packed'
        """
        words = {name: getattr(self, name) for name in _WORDS} | dict(sorted(self.attention.items()))
        return " ".join(f"{name}={word}" for name, word in words.items() if word not in ("plain", "library")) or OFF

    @classmethod
    def from_text(cls, text: str) -> Choice:
        """The inverse of `to_text`.

        Raises:
            UsageError: a name or a word is unknown.
        """
        fields: dict[str, Any] = {}
        attention: dict[str, Route] = {}
        for pair in [] if text == OFF else text.split():
            name, _, word = pair.partition("=")
            if name in CLASSES:
                if word not in get_args(Route):
                    raise unknown(f"route for {name}", word, get_args(Route))
                attention[name] = word  # type: ignore[assignment]
            elif name in _WORDS:
                if word not in _WORDS[name]:
                    raise unknown(f"kernel for {name}", word, _WORDS[name])
                fields[name] = word
            else:
                raise UsageError(
                    f"kernels are 'auto', 'off' or words such as 'linear=packed'; got {pair!r}; "
                    f"known: {', '.join([*_WORDS, *CLASSES])}"
                )
        return cls(**fields, attention=attention)
