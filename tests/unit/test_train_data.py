import json

import numpy as np
import pytest
import torch

from diffgen.errors import UsageError
from diffgen.train import augment, captions
from diffgen.train.data import PictureSet, Record, base_weight, held_out_pairs
from diffgen.train.emoji import LEFT_OUT, on_white, plain_code


def record(**changes):
    return Record(**{"label": "red apple", "style": "3d", "group": "food", "codes": ("1f34e",), **changes})


def disc(colour, size=128):
    y, x = np.mgrid[:size, :size] - size / 2
    picture = np.full((size, size, 3), 255, np.uint8)
    picture[x * x + y * y < (size / 3) ** 2] = colour
    return picture


def test_held_out_pairs_do_not_depend_on_order_and_leave_two_styles_to_learn_from():
    pairs = [(f"{n:x}", style) for n in range(200) for style in ("3d", "flat", "noto")] + [("ff00", "3d")]
    held = held_out_pairs(pairs, 50)
    assert held == held_out_pairs(pairs[::-1], 50)
    assert len(held) == 50 == len({code for code, _ in held}) and ("ff00", "3d") not in held


def test_weights_and_split_of_a_built_set(tmp_path):
    from dataclasses import asdict

    rows = [record(weight=2.0), record(style="flat", weight=1.0), record(style="noto", held_out=True)]
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "set" / "pictures.npy", np.zeros((3, 4, 4, 3), np.uint8))
    (tmp_path / "set" / "records.json").write_text(json.dumps([asdict(r) for r in rows]))
    pictures = PictureSet(tmp_path)
    assert pictures.records == rows
    train = pictures.indices(held_out=False)
    assert train.tolist() == [0, 1] and pictures.indices(held_out=True).tolist() == [2]
    np.testing.assert_allclose(pictures.weights(train), [2 / 3, 1 / 3])


def test_a_missing_set_says_how_to_build_it(tmp_path):
    with pytest.raises(UsageError, match="diffgen train data"):
        PictureSet(tmp_path)


def test_people_and_symbols_weigh_less_and_staples_more():
    assert base_weight("judge", "people") < base_weight("abacus", "objects") < base_weight("red apple", "food")


def test_captions_hold_the_label_or_a_synonym_and_repeat_with_their_generator():
    apple = record(names=("fuji",))
    drawn = captions.captions(apple, 200, np.random.default_rng(0))
    assert drawn[0] == "red apple" and drawn == captions.captions(apple, 200, np.random.default_rng(0))
    assert all("red apple" in line or "fuji" in line for line in drawn)
    assert any("fuji" in line for line in drawn) and 80 < sum("3d" in line for line in drawn) < 180


def test_recolouring_turns_the_main_hue_and_says_so():
    picture = disc((220, 40, 40))
    hue, share = augment.dominant_hue(picture)
    assert share > 0.9
    blue = augment.recolour(picture, hue, "blue")
    r, _, b = blue[64, 64].tolist()
    assert b > 150 and r < 100 and blue[0, 0].tolist() == [255, 255, 255]
    made = augment.recoloured([record()] * 20, [picture] * 20, np.random.default_rng(0))
    assert made and all(r.kind == "recoloured" and r.label.endswith(" apple") and "red" not in r.label for r, _ in made)
    assert not augment.recoloured([record(held_out=True)] * 20, [picture] * 20, np.random.default_rng(0))


def test_pasted_pairs_name_what_they_show():
    records = [record(), record(label="pear", codes=("1f350",))]
    made = augment.pasted(records, [disc((220, 40, 40)), disc((90, 200, 60))], np.random.default_rng(0))
    assert len(made) == augment.PASTED_COUNT
    assert all(r.label.startswith("two ") or " and " in r.label for r, _ in made)
    assert all(picture.shape == (128, 128, 3) for _, picture in made)


def test_names_and_pictures_of_emoji():
    from PIL import Image

    assert plain_code("2764-FE0F") == "2764"
    assert LEFT_OUT.search("keycap: 3") and LEFT_OUT.search("man: beard") and not LEFT_OUT.search("red apple")
    drawing = Image.new("RGBA", (64, 64))
    drawing.paste((255, 0, 0, 255), (0, 0, 20, 10))
    page = on_white(drawing)
    red = (page[..., 1] < 100).nonzero()
    assert red[1].max() - red[1].min() + 1 == 116 and page[0, 0].tolist() == [255, 255, 255]


def test_the_tokenizer_keeps_wanted_words_whole_and_can_spell_all_others(tmp_path):
    from diffgen.train.tokenizer import build_tokenizer

    merges = [("a", "t</w>"), ("c", "at</w>"), ("d", "o"), ("do", "g</w>")]
    tokenizer = build_tokenizer(merges, ["dog"], tmp_path, first=1, length=8)
    assert tokenizer.tokenize("dog") == ["dog</w>"] and tokenizer.tokenize("cat") == ["c", "at</w>"]
    ids = tokenizer("", padding="max_length").input_ids
    assert len(ids) == 8 and ids[1:] == [tokenizer.eos_token_id] * 7


def test_the_linear_start_reproduces_patches_and_normalising_changes_only_the_latents_scale():
    from diffgen.train.autoencoder import AutoencoderSettings, new_autoencoder, normalise

    pictures = torch.stack([torch.from_numpy(disc(c)) for c in ((220, 40, 40), (40, 200, 60), (50, 60, 220))])
    pictures = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    model = new_autoencoder(AutoencoderSettings(), pictures, seed=0).eval()
    with torch.no_grad():
        latents = model.encode(pictures).latent_dist.mean
        before = model.decode(latents).sample
        assert (before - pictures).square().mean() < 0.2 * pictures.var()
        model.quant_conv.weight[:8] *= 3
        model.quant_conv.bias[:8] = model.quant_conv.bias[:8] * 3 + 1
        model.post_quant_conv.weight /= 3
        model.post_quant_conv.bias -= model.post_quant_conv.weight.sum((1, 2, 3))
        before = model.decode(model.encode(pictures).latent_dist.mean).sample
        normalise(model, model.encode(pictures).latent_dist.mean)
        again = model.encode(pictures).latent_dist.mean
        torch.testing.assert_close(again.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(model.decode(again).sample, before, atol=1e-3, rtol=1e-3)
