"""Fixtures shared by all tests. Nothing here, and nothing in the tests, touches the network."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: the machine may be busy, and a slow example is no wrong example. Derandomised: a red run is red again.
settings.register_profile("diffgen", deadline=None, derandomize=True)
settings.load_profile("diffgen")

# With a process on every core, further threads would only take turns. Set before anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(autouse=True)
def ctrl_c_works() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion checkpoint that predicts noise."""
    from tests import tiny

    return tiny.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def sd_v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 2 checkpoint: v-prediction, zero terminal SNR, prompts padded with "!"."""
    from tests import tiny

    return tiny.stable_diffusion(
        tmp_path_factory.mktemp("sd-v"), prediction="v_prediction", pad="!",
        scheduler={"rescale_betas_zero_snr": False, "timestep_spacing": "trailing"},
    )  # fmt: skip
