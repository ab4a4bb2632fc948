import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, MotionAdapter
from PIL import Image

from diffgen.errors import UsageError
from diffgen.train import motion_data
from diffgen.train.denoiser import DenoiserSettings, new_denoiser
from diffgen.train.loop import Loop, LoopSettings
from diffgen.train.motion import ClipBank, MotionSettings, MotionTask, new_adapter, pick
from diffgen.train.motion_data import ClipRecord, ClipSet, clip_captions, on_white, set_in_motion

SETTINGS = MotionSettings(frames=4, part=2, heads=2, positions=8, drop=0.0, preview_steps=2)


def unet():
    return new_denoiser(DenoiserSettings(channels=(8, 16), heads=2), latent_channels=4, text_width=16, seed=0)


def bank(clips=3):
    generator = torch.Generator().manual_seed(0)
    return ClipBank(
        latents=torch.randn(clips, 8, 4, 8, 8, generator=generator).bfloat16(),
        texts=torch.randn(3, 5, 16, generator=generator).bfloat16(),
        captions=torch.tensor([[1, 2]] * clips),
        weights=torch.ones(clips, dtype=torch.float64),
    )


def task():
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    network = unet()
    prompts = torch.zeros(2, 5, 16)
    return MotionTask(bank(), bank(2), SETTINGS, new_adapter(network, SETTINGS, 0), network, vae, prompts)


def loop(folder, task):
    settings = LoopSettings(steps=6, lr=1e-2, warmup=1, precision="fp32")
    return Loop(task, settings, folder, Accelerator(cpu=True))


def test_untrained_modules_draw_each_frame_as_the_picture_model_does():
    made = task()
    with torch.no_grad():
        for parameter in made.model.conv_out.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    x, text, times = torch.randn(2, 4, 4, 8, 8), torch.randn(2, 5, 16), torch.tensor([3, 700])
    clip = made.predict(x, times, text)
    for k in range(4):
        torch.testing.assert_close(clip[:, :, k], made.model(x[:, :, k], times, text).sample, rtol=1e-4, atol=1e-5)


def test_only_the_motion_modules_learn_and_a_resumed_run_repeats_the_unbroken_one(tmp_path):
    whole, first, second = (loop(tmp_path / name, task()) for name in ("whole", "parts", "parts"))
    before = {name: value.clone() for name, value in unet().state_dict().items()}
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    first.save()
    assert second.resume() == 2
    for _ in range(2):
        second.advance()
    assert torch.equal(whole.weights.master, second.weights.master)
    assert not torch.equal(whole.weights.master, loop(tmp_path, task()).weights.master)
    after = whole.task.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_is_exported_is_a_motion_adapter_with_the_averaged_weights(tmp_path):
    run = loop(tmp_path, task())
    run.advance()
    run.show()
    assert Image.open(tmp_path / "samples" / "00000001.png").size == (2 * 8, 2 * 8)
    adapter = MotionAdapter.from_pretrained(tmp_path / "model")
    assert sum(parameter.numel() for parameter in adapter.parameters()) == len(run.weights.average)
    with run.weights.averaged():
        for name, value in run.task.adapter.state_dict().items():
            assert torch.equal(adapter.state_dict()[name], value.half().float()), name
    assert adapter.down_blocks[0].motion_modules[0].transformer_blocks[0].pos_embed.pe.shape[1] == 8


def test_frames_left_out_do_not_change_what_the_others_are_told():
    made = task()
    for block in made.model.down_blocks:
        for module in block.motion_modules:
            torch.nn.init.eye_(module.proj_out.weight)
    x, text, times = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 5, 16), torch.tensor([500])
    hidden = []
    place = made.places[0]
    handle = place.register_forward_hook(lambda _module, inputs, output: hidden.append(output - inputs[0]))
    made.tell(torch.arange(4))
    made.predict(x, times, text)
    made.tell(torch.tensor([1, 3]))
    made.predict(x[:, :, [1, 3]], times, text)
    handle.remove()
    per_call = len(hidden) // 2  # each block's two attentions are told
    torch.testing.assert_close(hidden[0][:, [1, 3]], hidden[per_call])


def test_a_clip_is_one_round_of_its_loop_from_any_start():
    stored = torch.arange(8.0).view(8, 1, 1, 1)
    assert pick(stored, 4, 0).flatten().tolist() == [0, 2, 4, 6]
    assert pick(stored, 4, 3).flatten().tolist() == [3, 5, 7, 1]
    assert sorted(pick(stored, 8, 5).flatten().tolist()) == list(range(8))


@pytest.mark.parametrize("kind", ["bouncing", "swaying", "pulsing"])
def test_a_still_set_in_motion_moves_and_closes_its_loop(kind):
    picture = Image.new("RGBA", (64, 64))
    picture.paste((200, 30, 30, 255), (16, 8, 48, 56))
    frames = on_white(set_in_motion(picture, kind)).astype(float)
    assert frames.shape == (motion_data.FRAMES, 128, 128, 3)
    steps = [np.abs(a - b).mean() for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    assert frames.std(0).mean() > 1
    assert steps[-1] <= 1.5 * max(steps[:-1])  # the last frame leads on to the first as any other to its next
    assert (frames[:, 0] == 255).all()  # nothing is cut off at the edge


def test_all_frames_are_cut_alike_to_what_any_of_them_shows():
    frames = [Image.new("RGBA", (64, 64)) for _ in range(2)]
    frames[0].paste((0, 0, 0, 255), (8, 8, 16, 16))
    frames[1].paste((0, 0, 0, 255), (40, 8, 48, 16))
    shown = on_white(frames)
    dark = [np.argwhere(frame[:, :, 0] < 128).mean(0) for frame in shown]
    np.testing.assert_allclose(dark[0][0], dark[1][0])
    assert dark[1][1] - dark[0][1] > 80  # 32 of the 40 px that are drawn at all, 116 px wide


def test_captions_name_the_thing_and_its_motion():
    lines = clip_captions("red heart")
    assert "3d emoji of a beating red heart" in lines and all("red heart" in line for line in lines)
    assert clip_captions("waving hand").count("3d emoji of a waving hand") == 2
    assert "3d emoji of a moving panda" in clip_captions("panda")


def test_the_set_keeps_its_split_and_a_missing_one_says_how_to_build_it(tmp_path):
    with pytest.raises(UsageError, match="diffgen train clips"):
        ClipSet(tmp_path)
    records = [ClipRecord(label="fox", code="1f98a", kind="drawn", held_out=number == 1) for number in range(3)]
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips" / "clips.npy", np.zeros((3, motion_data.FRAMES, 2, 2, 3), np.uint8))
    (tmp_path / "clips" / "clips.json").write_text(json.dumps([asdict(record) for record in records]))
    clips = ClipSet(tmp_path)
    assert clips.indices(held_out=False).tolist() == [0, 2] and clips.indices(held_out=True).tolist() == [1]
