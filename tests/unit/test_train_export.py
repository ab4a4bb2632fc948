import json

import pytest
import torch

from diffgen.errors import UsageError
from diffgen.train import export
from diffgen.train.denoiser import DenoiserSettings, box_path, new_denoiser
from diffgen.train.preview import draw, start_noise, trailing
from diffgen.train.text_encoder import TextEncoderSettings, encode, new_text_encoder, tokenize
from diffgen.train.tokenizer import build_tokenizer


def tiny_parts(folder):
    from diffusers import AutoencoderKL

    tokenizer = build_tokenizer([("a", "t</w>"), ("c", "at</w>")], ["cat"], folder / "words", first=2, length=8)
    text = new_text_encoder(TextEncoderSettings(width=16, layers=1, heads=2, length=8), tokenizer, 0).eval()
    unet = new_denoiser(DenoiserSettings(channels=(16, 16), heads=2), latent_channels=4, text_width=16, seed=0).eval()
    with torch.no_grad():
        unet.conv_out.weight += 0.01
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=1, latent_channels=4, layers_per_block=1)
    return {"vae": vae, "text_encoder": text, "tokenizer": tokenizer, "unet": unet}


def test_the_exported_folder_holds_the_parts_in_half_precision_and_leaves_them_as_they_were(tmp_path):
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTokenizer

    parts = tiny_parts(tmp_path)
    before = {name: value.clone() for name, value in parts["unet"].state_dict().items()}
    size = export.write(tmp_path / "box", **parts)
    assert size == sum(f.stat().st_size for f in (tmp_path / "box").rglob("*") if f.is_file())
    assert all(torch.equal(before[name], value) for name, value in parts["unet"].state_dict().items())
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "box" / "unet", torch_dtype=torch.float16)
    assert all(torch.equal(before[name].half(), value) for name, value in unet.state_dict().items())
    again = CLIPTokenizer.from_pretrained(tmp_path / "box" / "tokenizer")
    assert tokenize(again, ["cat at"]).tolist() == tokenize(parts["tokenizer"], ["cat at"]).tolist()
    assert json.loads((tmp_path / "box" / "tokenizer" / "vocab.json").read_text()) == again.get_vocab()
    index = json.loads((tmp_path / "box" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["safety_checker"] == [None, None]
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "box" / "scheduler")
    ours = torch.tensor(box_path().alphas_cumprod)
    torch.testing.assert_close(scheduler.alphas_cumprod, ours, atol=1e-5, rtol=1e-4)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    parts = tiny_parts(tmp_path)
    with torch.no_grad():
        parts["unet"].conv_in.bias += 1e6
    with pytest.raises(UsageError, match="float16"):
        export.write(tmp_path / "box", **parts)
    with pytest.raises(UsageError, match="no folder"):
        export.assemble(tmp_path, autoencoder=tmp_path / "none", text_encoder=tmp_path, unet=tmp_path)


def test_the_preview_draws_the_same_picture_alone_and_among_others(tmp_path):
    parts = tiny_parts(tmp_path)
    ids = tokenize(parts["tokenizer"], ["cat", "at", ""])
    states = encode(parts["text_encoder"], ids)
    noise = start_noise(2, 4, 8, seed=3)
    both = draw(parts["unet"], states[:2], states[2:], noise, box_path(), steps=3, guidance=2.0)
    alone = draw(
        parts["unet"], states[1:2], states[2:], start_noise(1, 4, 8, seed=4), box_path(), steps=3, guidance=2.0
    )
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    assert both.isfinite().all() and trailing(1000, 20)[:2] == [999, 949]
