"""Tokens, chunks and weights against transformers' own tokenizers, built small from files."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgen.errors import UsageError
from diffgen.prompts import (
    BREAK,
    Span,
    encode_clip,
    encode_sequence,
    pad_chunks,
    parse,
    tokenize,
    weigh,
)


def byte_letters() -> list[str]:
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + k) for k in range(len(rest))]


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"], ids=["sd15", "sd21"])
def tokenizer(request, tmp_path_factory):
    """A CLIP tokenizer from files, as checkpoints hold it; SD 1 pads with the end token and SD 2 with "!"."""
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    merges = ["c a", "ca t</w>", "d o", "do g</w>", "r e", "re d</w>"]
    letters = byte_letters()
    vocab = letters + [letter + "</w>" for letter in letters] + [merge.replace(" ", "") for merge in merges]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    return CLIPTokenizer.from_pretrained(folder, pad_token=request.param, model_max_length=77)


def reference(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, padding="max_length", truncation=True, max_length=77)["input_ids"])


@pytest.mark.parametrize("text", ["", "a cat", "red cat, dog's  DOG\n1234 ünï", "cat " * 74 + "cat", "!", "a\tb,"])
def test_a_plain_prompt_equals_the_tokenizers_own_row(tokenizer, text: str) -> None:
    chunks = tokenize(parse(text), tokenizer)
    assert chunks.ids == (reference(tokenizer, text),)
    assert chunks.weights == ((1.0,) * 77,)
    assert chunks.empty == reference(tokenizer, "")
    assert chunks.unknown == ()


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_characters="()[]\\", codec="utf-8"), max_size=18))
def test_any_plain_prompt_equals_the_tokenizers_own_row(shared, text: str) -> None:
    if "BREAK" not in text and "<|" not in text:
        assert tokenize(parse(text), shared).ids[0] == reference(shared, text)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A tokenizer without letters of other bytes, whose missing words are to be reported."""
    from transformers import CLIPTokenizer

    words = ["!", ",</w>", "a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: k for k, token in enumerate(words)}, merges=[])


def test_weights_stand_at_their_tokens(tokenizer) -> None:
    chunks = tokenize(parse("a (red:1.5) [cat]"), tokenizer)
    assert chunks.ids == (reference(tokenizer, "a red cat"),)
    assert chunks.weights[0][:5] == (1.0, 1.0, 1.5, 1 / 1.1, 1.0)
    assert chunks.tokens == 3


def test_a_long_prompt_breaks_where_it_is_full(tokenizer) -> None:
    chunks = tokenize(parse("cat " * 100), tokenizer)
    assert len(chunks.ids) == 2
    assert chunks.tokens == 100
    assert chunks.ids[0] == reference(tokenizer, "cat " * 75)
    assert chunks.ids[1] == reference(tokenizer, "cat " * 25)


@pytest.mark.parametrize(("comma", "first"), [(54, 75), (55, 56), (70, 71), (74, 75)])
def test_a_long_prompt_breaks_after_a_near_comma(tokenizer, comma: int, first: int) -> None:
    words = ["cat"] * 90
    words[comma] = ","
    chunks = tokenize(parse(" ".join(words)), tokenizer)
    assert chunks.ids == (reference(tokenizer, " ".join(words[:first])), reference(tokenizer, " ".join(words[first:])))


def test_a_comma_at_the_boundary_goes_to_the_next_chunk(tokenizer) -> None:
    words = ["cat"] * 60 + [","] + ["cat"] * 14 + [",", "dog"]
    chunks = tokenize(parse(" ".join(words)), tokenizer)
    assert chunks.ids == (reference(tokenizer, " ".join(words[:75])), reference(tokenizer, ", dog"))


def test_break_pads_the_chunk(tokenizer) -> None:
    chunks = tokenize(parse("red BREAK cat"), tokenizer)
    assert chunks.ids == (reference(tokenizer, "red"), reference(tokenizer, "cat"))
    assert tokenize(parse("red BREAK"), tokenizer).ids == (reference(tokenizer, "red"),)
    assert tokenize((BREAK, Span(text="cat")), tokenizer).ids == (chunks.empty, chunks.ids[1])


def test_positive_and_negative_get_as_many_chunks(tokenizer) -> None:
    long, short = tokenize(parse("cat " * 100), tokenizer), tokenize(parse("dog"), tokenizer)
    a, b = pad_chunks(short, long)
    assert b == long
    assert a.ids == (short.ids[0], short.empty)
    assert a.weights[1] == (1.0,) * 77


def test_too_long_and_unusable_prompts_are_refused(tokenizer) -> None:
    with pytest.raises(UsageError, match=r"5,000 tokens in 67 chunks of 75; the limit is 40 chunks \(3,000"):
        tokenize(parse("cat " * 5000), tokenizer)
    assert len(tokenize(parse("cat " * 3000), tokenizer).ids) == 40
    with pytest.raises(UsageError, match=r"weight of 'cat' is inf"):
        tokenize(parse("(cat:" + "9" * 400 + ")"), tokenizer)
    with pytest.raises(UsageError, match="no room"):
        tokenize(parse("cat"), tokenizer, length=2)


def test_unknown_words_are_reported(shared) -> None:
    assert tokenize(parse("a Zebra (b ?:1.2), a Zebra"), shared).unknown == ("Zebra", "?")
    assert tokenize(parse("a <|endoftext|> b"), shared).unknown == ()


def test_weights_of_one_return_the_same_tensor() -> None:
    hidden = torch.randn(2, 5, 3)
    assert weigh(hidden, torch.ones(2, 5)) is hidden


def test_weigh_restores_each_rows_mean() -> None:
    torch.manual_seed(0)
    hidden, weights = torch.randn(3, 5, 4) + 0.5, torch.tensor([[1.0] * 5, [1, 1.5, 1, 1, 1], [1, 0.5, -1, 1, 1]])
    out = weigh(hidden, weights)
    plain = weigh(hidden, weights, "plain")
    assert torch.equal(plain, hidden * weights[:, :, None])
    assert torch.equal(out[0], hidden[0])
    torch.testing.assert_close(out.mean((1, 2)), hidden.mean((1, 2)))
    torch.testing.assert_close(out[1] / out[1].mean(), plain[1] / plain[1].mean())
    for k in range(3):
        assert torch.equal(weigh(hidden[k : k + 1], weights[k : k + 1])[0], out[k])
    assert weigh(hidden.bfloat16(), weights).dtype == torch.bfloat16
    assert weigh(hidden * 0, weights).isfinite().all()
    with pytest.raises(UsageError, match="accepted: mean, plain"):
        weigh(hidden, weights, "maen")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="do not fit"):
        weigh(hidden, weights[:, :4])


def clip_like(calls: list[torch.Tensor]):
    table = torch.randn(1000, 16, generator=torch.Generator().manual_seed(1))

    def encode_ids(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(ids)
        hidden = table[ids].cumsum(1).tanh() + 0.1
        return hidden, hidden[:, -1]

    return encode_ids


def test_encode_clip_joins_chunks_along_tokens(tokenizer) -> None:
    calls: list[torch.Tensor] = []
    encode = clip_like(calls)
    hidden, pooled, info = encode_clip(["cat " * 100, "a (dog:1.3)", "a dog", "a dog"], tokenizer, encode)
    assert hidden.shape == (4, 154, 16)
    assert pooled.shape == (4, 16)
    # Two rows of the first, "a dog", and the empty row that pads: equal rows are encoded once.
    assert [tuple(ids.shape) for ids in calls] == [(1, 77)] * 4
    assert [(i.tokens, i.chunks, i.dropped) for i in info] == [(100, 2, 0), (2, 1, 0), (2, 1, 0), (2, 1, 0)]
    dog, dog_pooled = encode(torch.tensor([reference(tokenizer, "a dog")]))
    empty = encode(torch.tensor([reference(tokenizer, "")]))[0]
    assert torch.equal(hidden[2], torch.cat([dog, empty], dim=1)[0])
    assert torch.equal(pooled[1:], dog_pooled.expand(3, -1))
    assert not torch.equal(hidden[1], hidden[2])


def test_a_prompt_is_the_same_bytes_in_any_batch(tokenizer) -> None:
    encode = clip_like([])
    alone = encode_clip(["a (red:1.4) cat"], tokenizer, encode, chunks=2)[0]
    batch = encode_clip(["dog " * 90, "a (red:1.4) cat", "x"], tokenizer, encode)[0]
    assert torch.equal(alone[0], batch[1])
    assert torch.equal(encode_clip(["a (red:1.4) cat"], tokenizer, encode)[0][0], batch[1, :77])


def test_no_prompt_is_refused(shared) -> None:
    for texts in ([], "a cat"):
        with pytest.raises(UsageError, match="list of at least one"):
            encode_clip(texts, shared, clip_like([]))


@pytest.fixture(scope="module")
def t5():
    from transformers import T5Tokenizer

    words = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁cat", ",", "a", "c", "t"]
    return T5Tokenizer(vocab=[(word, -float(k)) for k, word in enumerate(words)], extra_ids=0)


def test_encode_sequence_pads_weighs_and_reports_what_it_drops(t5) -> None:
    seen = []

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append((ids, mask))
        return ids[:, :, None].float().expand(-1, -1, 4) + 1

    texts = ["a red cat", "a (red:2) BREAK cat", "red " * 6 + "a cat cat", ""]
    hidden, mask, info = encode_sequence(texts, t5, encode, length=8, mode="plain")
    assert hidden.shape == (4, 8, 4)
    own = t5(texts[0], padding="max_length", truncation=True, max_length=8)
    assert seen[0][0].tolist() == [own["input_ids"]]
    assert mask[0].tolist() == own["attention_mask"]
    assert torch.equal(hidden[1, 1], hidden[0, 1] * 2)
    assert torch.equal(hidden[1, 2:], hidden[0, 2:])
    cut = t5(texts[2], padding="max_length", truncation=True, max_length=8)
    assert seen[1][0].tolist() == [cut["input_ids"]]
    assert (info[2].tokens, info[2].dropped, info[2].dropped_words) == (9, 2, ("cat", "cat"))
    assert (info[0].dropped, info[0].dropped_words) == (0, ())
    assert mask[3].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert len(seen) == 3
