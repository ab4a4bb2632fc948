"""What is typed, as values; and what becomes of errors."""

from __future__ import annotations

import errno
import re

import pytest

from diffgen.app import errors, values
from diffgen.errors import CheckpointError, NumericalError, UsageError


@pytest.mark.parametrize(
    ("text", "size"), [("512x768", (512, 768)), ("128", (128, 128)), (" 64 X 32 ", (64, 32)), (None, None)]
)
def test_sizes(text: str | None, size: tuple[int, int] | None) -> None:
    assert values.size_of(text) == size


@pytest.mark.parametrize("text", ["", "x", "0x64", "64x", "-64x64", "64.5x64", "1e3", "64x64x64"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
        values.size_of(text)


def test_settings_are_json_values_or_words() -> None:
    found = values.settings_of(["eta=0.5", "final=min", " order = 3", "guidance_method=apg", "eta=1"], clip_skip=2)
    assert found == {"eta": 1, "final": "min", "order": 3, "guidance_method": "apg", "clip_skip": 2}


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("eta", "name=value"), ("=3", "name=value"), ("eta=much", "eta is a number"), ("order=1.5", "a whole number"),
        ("eta=NaN", "eta is a number"), ("shift=true", "shift is a number"), ("final=soon", "zero or min"),
        ("guidance_method=3", "guidance_method is a word"),
    ],
)  # fmt: skip
def test_settings_of_the_wrong_kind_are_refused(pair: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        values.settings_of([pair])


def test_names_unknown_here_are_left_to_the_pipeline() -> None:
    assert values.settings_of(["someday=1"]) == {"someday": 1}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("no such size"), 2, "no such size"),
        (CheckpointError("it is damaged"), 2, "it is damaged"),
        (NumericalError("NaN"), 1, "NaN"),
        (errors.Interrupted("stopped; kept: a.png"), 130, "kept: a.png"),
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "smaller --size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory"),
        (OSError(errno.ENOSPC, "No space left", "a.png"), 1, "the disk is full: a.png"),
        (ModuleNotFoundError("x", name="tensorboard.compat"), 1, r"pip install 'diffgen\[train\]'"),
        (BrokenPipeError(), 1, "^$"),
    ],
)  # fmt: skip
def test_each_error_has_a_sentence_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert errors.report(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) <= 1
    assert re.search(said, err.removeprefix("diffgen: ").strip())
    assert "Traceback" not in err


def test_a_fault_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ZeroDivisionError("oh")
    except ZeroDivisionError as error:
        assert errors.report(error) == errors.OWN_FAULT
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oh" in err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("diffgen: this is a fault in diffgen")
