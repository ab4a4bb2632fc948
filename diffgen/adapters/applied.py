"""Adapters on a family: the patches that carry them out, and a report on each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffgen.adapters.adapter import Adapter
from diffgen.adapters.files import Contents, open_file
from diffgen.adapters.layer import Change
from diffgen.adapters.match import Match, Target, match
from diffgen.adapters.merge import merged
from diffgen.adapters.words import Word, is_embedding, read_word, readers, taught
from diffgen.contracts import Family, Patch
from diffgen.errors import UsageError

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of one file.

    Attributes:
        name: the file's name.
        kinds: how many layers of each kind took effect, such as {"LoRA": 192}; {"embedding": vectors} for a word.
        keys, used: how many keys the file has, and how many took effect.
        unmatched: the keys that did not, each with the reason.
        word: what stands for an embedding in prompts, else "".
    """

    name: str
    kinds: Mapping[str, int]
    keys: int
    used: int
    unmatched: Mapping[str, str] = field(default_factory=dict)
    word: str = ""

    @property
    def line(self) -> str:
        """What the file does, in one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        unit = "vectors" if self.word else "layers"
        as_word = f" for the word {self.word!r}" if self.word else ""
        return f"{self.name}: {self.used} of {self.keys} keys took effect ({kinds} {unit}{as_word})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a warning: keys without effect. Empty when all is well."""
        if not self.unmatched:
            return ()
        shown = [f"{key} ({reason})" for key, reason in list(self.unmatched.items())[:_SHOWN]]
        more = f" and {len(self.unmatched) - _SHOWN} more" if len(self.unmatched) > _SHOWN else ""
        return (f"{self.name}: {len(self.unmatched)} of {self.keys} keys took no effect: {', '.join(shown)}{more}",)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """Adapters ready for a run.

    Attributes:
        text: patches of text encoders and tokenizers, for while prompts are encoded.
        drawing: patches of denoisers, for the run itself: a plan's `patches`.
        reports: one a file, in the order given.
        words: the embeddings' words.
    """

    text: tuple[Patch, ...] = ()
    drawing: tuple[Patch, ...] = ()
    reports: tuple[Report, ...] = ()
    words: tuple[Word, ...] = ()

    @property
    def patches(self) -> tuple[Patch, ...]:
        """All of them, for a run that encodes prompts and draws under one roof."""
        return self.text + self.drawing

    def notes(self, *prompts: str) -> tuple[str, ...]:
        """Warnings on every file: keys without effect, and words that no prompt has."""
        found = [note for report in self.reports for note in report.notes]
        for word in self.words:
            if not any(word.within(prompt) for prompt in prompts):
                found.append(f"the embedding {word.text!r} was not used: no prompt has the word")
        return tuple(found)


def apply(adapters: Sequence[Adapter], family: Family) -> Applied:
    """Reads adapter files against a family's networks. Changes nothing until a patch is entered.

    Raises:
        CheckpointError: a file is missing, damaged, or a pickle that was not allowed.
        UsageError: a file changes nothing, or is for another kind of model.
    """
    if not adapters:
        return Applied()
    targets = {
        name: Target.of(name, network)
        for name, network in family.components.items()
        if name.startswith(("denoiser", "text_encoder"))
    }
    changes: dict[str, dict[str, list[Change]]] = {}
    words: list[Word] = []
    reports = []
    for adapter in adapters:
        contents = open_file(adapter.file, allow_pickle=adapter.allow_pickle)
        if is_embedding(contents):
            words.append(read_word(adapter, contents, family))
            reports.append(_word_report(words, contents))
            continue
        found = match(adapter, contents, targets)
        for (component, parameter), own in found.changes.items():
            changes.setdefault(component, {}).setdefault(parameter, []).extend(own)
        reports.append(_report(contents.file.name, len(contents.shapes), found))
    merges = {component: merged(component, own) for component, own in changes.items()}
    taught_words = [taught(name, tokenizer, words) for name, tokenizer in readers(family).items()] if words else []
    return Applied(
        text=(*(patch for name, patch in merges.items() if name.startswith("text_encoder")), *taught_words),
        drawing=tuple(patch for name, patch in merges.items() if name.startswith("denoiser")),
        reports=tuple(reports), words=tuple(words),
    )  # fmt: skip


def _report(name: str, keys: int, found: Match) -> Report:
    return Report(name=name, kinds=found.kinds, keys=keys, used=len(found.used), unmatched=found.unmatched)


def _word_report(words: Sequence[Word], contents: Contents) -> Report:
    word, keys = words[-1], contents.shapes
    if any(word.text.lower() == other.text.lower() for other in words[:-1]):
        raise UsageError(f"two embeddings have the word {word.text!r}; give one of them another")
    vectors = sum(tensor.shape[0] for tensor in word.vectors.values())
    return Report(
        name=contents.file.name, kinds={"embedding": vectors}, keys=len(keys), used=len(word.keys), word=word.text,
        unmatched={key: "no text encoder of this model reads it" for key in keys if key not in word.keys},
    )  # fmt: skip
