"""The syntax of wildcards: a template's text to its parts. What each form means stands in `wildcards`."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Union

from diffgen.errors import UsageError

_DEPTH = 50
_TOKEN = re.compile(
    r"\\(?:__|.)|__(?P<name>[^\s_{}|()\[\]<>,\\](?:(?!__)[^{}|()\[\]<>,\\\n])*?(?<!\s))__|[{}\[\]|]", re.S
)
_COUNT = re.compile(r"\s*(?P<low>\d{0,6})(?P<dash>-?)(?P<high>\d{0,6})\$\$(?:(?P<joiner>[^{}|$]*)\$\$)?")
_WEIGHT = re.compile(r"\s*(\d{1,6}(?:\.\d{0,12})?|\.\d{1,12})\s*::")
_VARIABLE = re.compile(r"\$\{\w+[=:?!}]")


@dataclass(frozen=True, kw_only=True)
class File:
    """`__name__`, where the name may be a glob."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing to pick: a template, or a file's line still to be parsed. `chain`: the files it came through."""

    source: str | tuple[Part, ...]
    weight: float = 1.0
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Between `low` and `high` of the options, none twice, joined by `joiner`."""

    options: tuple[Option, ...]
    low: int = 1
    high: int = 1
    joiner: str = ", "


Part = Union[str, File, Choice]  # noqa: UP007, the names above are not types yet when `|` would run
Template = tuple[Part, ...]


def _scan(text: str) -> tuple[dict[int, int], dict[int, list[int]]]:
    """For each opening brace its closing one, and the bars between its options."""
    closes: dict[int, int] = {}
    bars: dict[int, list[int]] = {}
    stack: list[tuple[str, int, list[int]]] = []
    depth = 0
    for found in _TOKEN.finditer(text):
        token, at = found[0], found.start()
        if token in ("{", "["):
            stack.append((token, at, []))
            depth += token == "{"
            if depth > _DEPTH:
                raise UsageError(f"braces are nested more than {_DEPTH} deep")
        elif token == "|" and stack:
            stack[-1][2].append(at)
        elif token == "]" and stack and stack[-1][0] == "[":
            stack.pop()  # the bars of [a|b] are the prompt's own
        elif token == "}":
            while stack and stack[-1][0] == "[":
                loose = stack.pop()  # a bracket nothing closes is text, so its bars are the brace's
                if stack:
                    stack[-1][2].extend(loose[2])
            if not stack:
                raise UsageError(f"'}}' at character {at + 1} closes nothing; write \\}} for a literal one")
            _, start, own = stack.pop()
            closes[start], bars[start] = at, own
            depth -= 1
    for mark, at, _ in stack:
        if mark == "{":
            raise UsageError(f"'{{' at character {at + 1} is never closed; write \\{{ for a literal one")
    return closes, bars


def parse_template(text: str) -> Template:
    """The parts of a template; UsageError for braces that do not balance or a variable."""
    if variable := _VARIABLE.search(text):
        raise UsageError(f"variables such as {variable[0]!r} are not supported; use {{a|b}} or __file__")
    closes, bars = _scan(text)

    def read(at: int, end: int, inside: bool) -> Template:
        parts: list[Part] = [""]
        while found := _TOKEN.search(text, at, end):
            token, literal = found[0], text[at : found.start()]
            at = found.end()
            if token == "{":
                parts += [literal, choice(found.start())]
                at = closes[found.start()] + 1
            elif found["name"]:
                parts += [literal, File(name=found["name"])]
            else:
                ours = token[1:] in ("{", "}", "__") or (inside and token == "\\|")
                parts.append(literal + (token[1:] if ours else token))
        return tuple(part for part in (*parts, text[at:end]) if part != "")

    def choice(start: int) -> Choice:
        end, begin = closes[start], start + 1
        low = high = 1
        joiner = ", "
        head = _COUNT.match(text, begin, end)
        if head and (head["low"] or head["high"]):
            begin = head.end()
            low = int(head["low"] or 1)
            high = int(head["high"] or (10**6 if head["dash"] else low))
            joiner = joiner if head["joiner"] is None else head["joiner"]
            if low > high:
                raise UsageError(f"{{{head[0]}...}} asks for at least {low} and at most {high}; swap them")
        options = []
        for after, before in itertools.pairwise((begin - 1, *bars[start], end)):
            given = _WEIGHT.match(text, after + 1, before)
            source = read(given.end() if given else after + 1, before, True)
            options.append(Option(source=source, weight=float(given[1]) if given else 1.0))
        return Choice(options=tuple(options), low=low, high=high, joiner=joiner)

    return read(0, len(text), False)
