import pytest
import torch

from diffgen.errors import UsageError
from diffgen.train.evaluate import Box, Score, table
from diffgen.train.judge import disturb, new_judge


def test_disturbed_pictures_stay_on_white_and_repeat_with_their_generator():
    white = torch.ones(4, 3, 128, 128)
    out = disturb(white, torch.Generator().manual_seed(0))
    assert out.shape == (4, 3, 64, 64)
    torch.testing.assert_close(out, torch.ones_like(out), atol=1e-5, rtol=0)
    noisy = torch.rand(4, 3, 128, 128)
    assert torch.equal(
        disturb(noisy, torch.Generator().manual_seed(1)), disturb(noisy, torch.Generator().manual_seed(1))
    )
    assert not torch.equal(
        disturb(noisy, torch.Generator().manual_seed(1)), disturb(noisy, torch.Generator().manual_seed(2))
    )


def test_the_judge_scores_every_class():
    assert new_judge(7, seed=0)(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_scores_print_as_a_table():
    text = table([Score(kind="food", count=100, real=0.93, rebuilt=0.9, drawn=0.5, median_rank=6.0)])
    assert text.splitlines()[-1] == "| food | 100 | 93 % | 90 % | 50 % | 6 |"


def test_a_folder_without_defaults_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"diffgen\.json"):
        Box.load(tmp_path)
