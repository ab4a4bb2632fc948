r"""Wildcards: one template, many prompts. What comes out is an ordinary prompt; never expand it again.

| written | means |
|---|---|
| `{red\|blue\|green}` | one of them |
| `{0.5::a\|b}` | a half as often as b; a weight not given is 1 |
| `{2$$a\|b\|c}`, `{1-2$$ and $$a\|b\|c}` | two joined by ", "; one or two joined by " and "; none twice |
| `__animals/cat__` | a line of animals/cat.txt in a wildcard folder; `#` starts a comment line |
| `__animals/*__`, `__animals/**__` | a line of any file in animals, or in it and below |
| `\{` `\}` `\|` `\__` | the characters themselves |

Options and lines may hold any of this again. Attention brackets, BREAK and `[a|b]`, whose bar is not ours
even inside braces, pass untouched. The syntax is that of sd-dynamic-prompts (`docs/SYNTAX.md`); its variables,
`${...}`, are refused by name. Picks use `random.Random.random()` alone, the one method whose numbers Python
promises to keep, so that a seed means the same prompt tomorrow.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

from diffgen.errors import UsageError
from diffgen.prompts.wildcard_syntax import Choice, File, Option, Template, parse_template

_Chain = tuple[str, ...]


def expand(text: str, *, seed: int, folders: Sequence[str | Path] = ()) -> str:
    """One prompt drawn from a template; the same for the same text, seed and files.

    Args:
        seed: any integer; a picture's own seed gives each picture of a batch its own prompt.
        folders: wildcard folders, read only when a wildcard is met; the first that has a name wins.
    Returns: the prompt; `text` itself when it holds no wildcard and no escape of one.
    Raises:
        UsageError: braces that do not balance, a missing or empty file, or files in a circle.

    >>> expand("a {red|red} ball", seed=1)
    'a red ball'
    """
    rng = random.Random(seed)
    library = _Library(folders)

    def draw(parts: Template, chain: _Chain) -> str:
        return "".join(part if isinstance(part, str) else pick(part, chain) for part in parts)

    def pick(part: File | Choice, chain: _Chain) -> str:
        choice = library.choice(part, chain)
        left, out = list(choice.options), []
        for _ in range(choice.low + int(rng.random() * (choice.high - choice.low + 1))):
            point = rng.random() * math.fsum(option.weight for option in left)
            sums = itertools.accumulate(option.weight for option in left)
            index = next((k for k, total in enumerate(sums) if point < total), len(left) - 1)
            option = left.pop(index)
            out.append(draw(library.parts(option), option.chain or chain))
        return choice.joiner.join(out)

    return draw(parse_template(text), ())


def expand_all(text: str, *, folders: Sequence[str | Path] = (), limit: int = 1000) -> tuple[str, ...]:
    """Every prompt a template can give, each once, the last choice changing fastest.

    Several of one choice stand in the order written, so `{2$$a|b|c}` gives 3 prompts and not 6.

    Raises:
        UsageError: more than `limit` prompts, and what `expand` raises.

    >>> expand_all("{a|b} {1|2}")
    ('a 1', 'a 2', 'b 1', 'b 2')
    """
    library = _Library(folders)

    def bounded(count: int) -> None:
        # Asked before anything is built: a few files of a thousand lines make more than memory holds.
        if count > limit:
            raise UsageError(f"the template makes {count:,} prompts or more; the limit is {limit:,}")

    def joined(lists: list[list[str]], joiner: str) -> list[str]:
        bounded(math.prod(map(len, lists)))
        return [joiner.join(texts) for texts in itertools.product(*lists)]

    def every(parts: Template, chain: _Chain) -> list[str]:
        lists = [[part] if isinstance(part, str) else each(part, chain) for part in parts]
        return list(dict.fromkeys(joined(lists, "")))

    def each(part: File | Choice, chain: _Chain) -> list[str]:
        choice = library.choice(part, chain)
        found: dict[str, None] = {}
        for count in range(choice.low, choice.high + 1):
            bounded(math.comb(len(choice.options), count))
            for picked in itertools.combinations(choice.options, count):
                texts = [every(library.parts(option), option.chain or chain) for option in picked]
                found.update(dict.fromkeys(joined(texts, choice.joiner)))
                bounded(len(found))
        return list(found)

    return tuple(every(parse_template(text), ()))


class _Library:
    """The wildcard files of some folders, read when first asked for."""

    def __init__(self, folders: Sequence[str | Path]) -> None:
        several = [folders] if isinstance(folders, (str, Path)) else folders
        self._folders = [Path(folder) for folder in several]
        self._files: dict[str, Path] | None = None
        self._lines: dict[str, list[str]] = {}

    def choice(self, part: File | Choice, chain: _Chain) -> Choice:
        """The options of a part; bounds beyond their number are cut to it, as in the reference."""
        if isinstance(part, File):
            options = tuple(
                Option(source=line, chain=(*chain, name))
                for name in self._matching(part.name, chain)
                for line in self._read(name)
            )
            return Choice(options=options)
        options = tuple(option for option in part.options if option.weight > 0)
        if not options:
            raise UsageError("every option of a {...} has the weight 0; give one a larger weight")
        only = options[0].source
        if len(options) == 1 and len(only) == 1 and isinstance(only[0], File):
            options = self.choice(only[0], chain).options  # {2$$__file__} takes two different lines
        count = len(options)
        low, high = min(part.low, count), min(part.high, count)
        return Choice(options=options, low=low, high=high, joiner=part.joiner)

    def parts(self, option: Option) -> Template:
        if not isinstance(option.source, str):
            return option.source
        try:
            return parse_template(option.source)
        except UsageError as error:
            raise UsageError(f"in wildcard {option.chain[-1]!r}, line {option.source!r}: {error}") from error

    def _names(self) -> dict[str, Path]:
        if self._files is None:
            self._files = {}
            for folder in self._folders:
                for path in sorted(folder.rglob("*.txt")):
                    self._files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        return self._files

    def _matching(self, name: str, chain: _Chain) -> list[str]:
        globs = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
        pattern = "".join(globs.get(bit, re.escape(bit)) for bit in re.split(r"(\*\*|[*?])", name))
        found = [known for known in self._names() if re.fullmatch(pattern, known)]
        for known in found:
            if known in chain:
                circle = " -> ".join([*chain[chain.index(known) :], known])
                raise UsageError(f"wildcard files name each other in a circle: {circle}")
        if not found:
            raise UsageError(self._missing(name))
        return found

    def _missing(self, name: str) -> str:
        if not self._folders:
            return f"no wildcard folder is given to look for __{name}__ in; write \\__ for a literal __"
        names = sorted(self._names())
        same = [known for known in names if known.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]]
        near = list(dict.fromkeys(same + difflib.get_close_matches(name, names, n=3, cutoff=0.5)))[:3]
        where = ", ".join(str(folder) for folder in self._folders)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        listed = ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
        return f"no wildcard file {name!r} in {where}; {hint}there: {listed or 'no .txt file'}; write \\__ for __"

    def _read(self, name: str) -> list[str]:
        if name not in self._lines:
            path = self._names()[name]
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"wildcard file {path} cannot be read as UTF-8 text: {error}") from error
            self._lines[name] = [line for line in lines if line and not line.startswith("#")]
            if not self._lines[name]:
                raise UsageError(f"wildcard file {path} has no line to pick")
        return self._lines[name]
