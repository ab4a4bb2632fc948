"""The prompt language against the webui's documented behaviour."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgen.errors import UsageError
from diffgen.prompts import LoraTag, Span, escape, extract_loras, parse, schedule

SPECIAL = "()[]\\:|, BREAK013.<>-"
prompts = st.text(st.one_of(st.sampled_from(SPECIAL), st.characters()), max_size=60)


def pairs(text: str) -> list[tuple[str, float]]:
    return [("BREAK", -1.0) if span.is_break else (span.text, span.weight) for span in parse(text)]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("normal text", [("normal text", 1)]),
        ("", [("", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("((word))", [("word", 1.21)]),
        ("[word]", [("word", 1 / 1.1)]),
        ("[(word)]", [("word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[(both", [("both", 1)]),
        ("closes) nothing]", [("closes) nothing]", 1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        (r"\\ and lone \x", [("\\ and lone x", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("(a:1)", [("a", 1)]),
        ("(a:1.)(b:.5)(c:+2)(d:-1)", [("a", 1), ("b", 0.5), ("c", 2), ("d", -1)]),
        ("(a: 1.5 )", [("a", 1.5)]),
        ("(a:b:1.5)", [("a:b", 1.5)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a:1.5) b", [("a:1.5) b", 1)]),
        ("[a:1.5)", [("a:1.5)", 1 / 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55)]
            + [(", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)],
        ),
        ("a BREAK b", [("a", 1), ("BREAK", -1), ("b", 1)]),
        ("BREAK a BREAK BREAK", [("BREAK", -1), ("a", 1), ("BREAK", -1), ("BREAK", -1)]),
        ("BREAKFAST a_BREAK break", [("BREAKFAST a_BREAK break", 1)]),
        ("(a BREAK b:1.2)", [("a", 1.2), ("BREAK", -1), ("b", 1.2)]),
    ],
)
def test_parse_as_the_webui_documents(text: str, spans: list[tuple[str, float]]) -> None:
    found = pairs(text)
    assert [words for words, _ in found] == [words for words, _ in spans]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in spans], abs=1e-12)


@given(prompts)
def test_parse_and_schedule_take_any_text(text: str) -> None:
    assert parse(text)
    entries = schedule(text, 7)
    assert entries[-1][0] == 7
    assert [end for end, _ in entries] == sorted({end for end, _ in entries})


@given(st.text(st.characters(exclude_characters="()[]\\"), max_size=60))
def test_text_without_special_characters_is_one_plain_span(text: str) -> None:
    if "BREAK" not in text:
        assert parse(text) == (Span(text=text),)


@given(prompts)
def test_escaped_text_means_itself(text: str) -> None:
    assert parse(escape(text)) == (Span(text=text),)


def test_ten_thousand_brackets_do_not_exhaust_the_stack() -> None:
    assert len(parse("(" * 5000 + "a" + "[" * 5000)) == 1
    assert schedule("[" * 10_000 + "a:b:3]", 5)[0] == (3, "[" * 9_999 + "a")


TURNS = tuple((n, "(b:1.1)" if n % 2 == 0 else "a") for n in range(1, 11))


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("test", ((10, "test"),)),
        ("plain [word] (a:1.2)", ((10, "plain [word] (a:1.2)"),)),
        ("a [b:3]", ((3, "a "), (10, "a b"))),
        ("a [b: 3 ]", ((3, "a "), (10, "a b"))),
        ("a [b::3]", ((3, "a b"), (10, "a "))),
        ("a [[[b]]:2]", ((2, "a "), (10, "a [[b]]"))),
        ("[(a:2):3]", ((3, ""), (10, "(a:2)"))),
        ("a [b : c : 1] d", ((1, "a b  d"), (10, "a  c  d"))),
        ("a[b:[c:d:2]:1]e", ((1, "abe"), (2, "ace"), (10, "ade"))),
        ("a [unbalanced", ((10, "a [unbalanced"),)),
        ("a [b:.5] c", ((5, "a  c"), (10, "a b c"))),
        ("a [b:c:1.0] d", ((10, "a b d"),)),
        ("a [b:c:0] d", ((10, "a c d"),)),
        ("a [b:c:99] d", ((10, "a b d"),)),
        ("a [b:c:0.25] d", ((2, "a b d"), (10, "a c d"))),
        ("((a][:b:c [d:3]", ((3, "((a][:b:c "), (10, "((a][:b:c d"))),
        ("[a|(b:1.1)]", TURNS),
        (r"\[a:b:3\]", ((10, r"\[a:b:3\]"),)),
        ("a | [b:3]", ((10, "a | [b:3]"),)),
        ("[a:b:c:3]", ((10, "[a:b:c:3]"),)),
        ("[a|b:3]", ((10, "[a|b:3]"),)),
    ],
)
def test_schedule_as_the_webui_documents(text: str, entries: tuple[tuple[int, str], ...]) -> None:
    assert schedule(text, 10) == entries


def test_schedule_takes_turns_with_empty_options() -> None:
    assert [text for _, text in schedule("[fe|]male", 4)] == ["female", "male", "female", "male"]
    assert [text for _, text in schedule("[fe|||]male", 5)] == ["female", "male", "male", "male", "female"]
    assert schedule("[[a|b]|c]", 3) == ((1, "a"), (2, "c"), (3, "a"))


def test_the_webuis_own_example_of_editing() -> None:
    text = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert schedule(text, 100) == (
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    )
    with pytest.raises(UsageError, match="at least 1 step"):
        schedule(text, 0)


def test_lora_tags_leave_the_text() -> None:
    text, tags = extract_loras("a <lora:one> cat<lora:two:0.8>, <lora:three:0.5:0.25> <lora:x:te=0:unet=1> <b:c>")
    assert text == "a  cat,   <b:c>"
    assert tags == (
        LoraTag(name="one"),
        LoraTag(name="two", te=0.8, unet=0.8),
        LoraTag(name="three", te=0.5, unet=0.25),
        LoraTag(name="x", te=0.0, unet=1.0),
    )


@pytest.mark.parametrize("tag", ["<lora:a:b>", "<lora:a:nan>", "<lora: :1>", "<lora:a:1:1:8>", "<lora:a:x=1>"])
def test_a_bad_lora_tag_is_named(tag: str) -> None:
    with pytest.raises(UsageError, match="write <lora:"):
        extract_loras(tag)


@given(prompts)
def test_text_without_a_lora_is_untouched(text: str) -> None:
    assert extract_loras(text) == (text, ())


def test_importing_prompts_does_not_import_torch() -> None:
    code = "import sys, diffgen.prompts, diffgen.prompts.wildcards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
