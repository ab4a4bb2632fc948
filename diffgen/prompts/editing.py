"""Prompt editing: `[from:to:when]`, `[to:when]`, `[from::when]`, `[a|b]` change a prompt over the steps.

The reference behaviour is AUTOMATIC1111's webui 1.10 (`modules/prompt_parser.py`), its current step counting:
a number with a point is a fraction of all steps, one without is a step. Its grammar is ambiguous: among stray
brackets it reads a well-formed edit as text now and then (2 of 32,000 random prompts); here it is an edit.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from diffgen.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A well-formed bracket: segment k is tokens[cuts[k] + 1 : cuts[k + 1]], cuts[-1] the closing bracket."""

    kind: str  # "plain", "edit" or "turns"
    cuts: tuple[int, ...]
    when: int = 0


_TOKEN = re.compile(r"[\[\]():|]|(?:[^\\\[\]():|]|\\.)+")
_WHEN = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


def schedule(text: str, steps: int) -> tuple[tuple[int, str], ...]:
    """Prompt editing over the steps: entry (n, text) holds for steps up to and including n, counted from 1.

    `when` written with a point is a fraction of all steps (0.5 of 20 is step 10), without one a step number.
    The last entry's n is `steps`; a prompt without editing has one entry. As in the reference, two neighbours
    may hold the same text, brackets that fit nothing are text, and a `|` outside every `[...]`, or a
    backslash before a line's end, makes the whole prompt plain.

    Raises:
        UsageError: steps is below 1.

    >>> schedule("a [red:blue:0.25] ball", 20)
    ((5, 'a red ball'), (20, 'a blue ball'))
    """
    if steps < 1:
        raise UsageError(f"a prompt schedule needs at least 1 step, not {steps}")
    tokens = _TOKEN.findall(text)
    groups = _groups(tokens, steps)
    ends = {steps}
    for group in groups.values():
        if group.kind == "turns":
            ends.update(range(1, steps + 1))
        elif group.kind == "edit" and group.when >= 1:
            ends.add(group.when)
    edited = any(group.kind != "plain" for group in groups.values())
    if not edited or sum(map(len, tokens)) != len(text) or _bare_bar(tokens, groups):
        return ((steps, text),)
    return tuple((end, _render(tokens, groups, end)) for end in sorted(ends))


def _groups(tokens: list[str], steps: int) -> dict[int, _Group]:
    # From right to left, so that what a bracket holds is known before the bracket; no recursion, because a
    # prompt may open ten thousand of them.
    groups: dict[int, _Group] = {}
    for start in reversed(range(len(tokens))):
        if tokens[start] in ("(", "["):
            cuts, at = [start], start + 1
            while at < len(tokens) and tokens[at] not in (")", "]"):
                if tokens[at] in ("(", "["):
                    if at not in groups:
                        break
                    at = groups[at].cuts[-1]
                elif tokens[at] in (":", "|"):
                    cuts.append(at)
                at += 1
            group = _group(tokens, (*cuts, at), steps) if at < len(tokens) else None
            if group:
                groups[start] = group
    return groups


def _group(tokens: list[str], cuts: tuple[int, ...], steps: int) -> _Group | None:
    shape = tokens[cuts[0]] + "".join(tokens[cut] for cut in cuts[1:])
    if shape in ("()", "(:)", "[]"):
        return _Group(kind="plain", cuts=cuts)
    if re.fullmatch(r"\[\|+\]", shape):
        return _Group(kind="turns", cuts=cuts)
    number = _WHEN.fullmatch("".join(tokens[cuts[-2] + 1 : cuts[-1]]))
    if shape in ("[:]", "[::]") and number:
        when = float(number[1]) * (steps if "." in number[1] else 1)
        return _Group(kind="edit", cuts=cuts, when=int(max(-1, min(steps, when))))
    return None


def _bare_bar(tokens: list[str], groups: dict[int, _Group]) -> bool:
    at = 0
    while at < len(tokens):
        if tokens[at] == "|":
            return True
        at = groups[at].cuts[-1] + 1 if at in groups else at + 1
    return False


def _render(tokens: list[str], groups: dict[int, _Group], step: int) -> str:
    done: dict[int, str] = {}

    def segment(start: int, end: int) -> str:
        out, at = [], start
        while at < end:
            out.append(done.get(at, tokens[at]))
            at = groups[at].cuts[-1] + 1 if at in groups else at + 1
        return "".join(out)

    for start, group in groups.items():  # inner ones come first
        cuts = group.cuts
        if group.kind == "plain":
            done[start] = tokens[start] + segment(start + 1, cuts[-1]) + tokens[cuts[-1]]
            continue
        parts = [segment(a + 1, b) for a, b in itertools.pairwise(cuts)]
        if group.kind == "turns":
            done[start] = parts[(step - 1) % len(parts)]
        else:
            before = parts[0] if len(parts) == 3 else ""
            done[start] = before if step <= group.when else parts[-2]
    return segment(0, len(tokens))
