"""Every family and variant against diffusers' own pipeline: same weights, seeds and steps, same latents and pixels."""

from __future__ import annotations

import pytest

from tests.parity.clips import CLIPS
from tests.parity.harness import CORNERS, FEW, Both, agree, both
from tests.parity.pictures import PICTURES


@pytest.fixture(scope="module", params=(*PICTURES, *CLIPS), ids=lambda variant: variant.title)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    "corner", [pytest.param(corner, marks=[] if corner in FEW else [pytest.mark.slow]) for corner in CORNERS],
    ids=lambda corner: f"{'guided' if corner[0] else 'unguided'}-batch{corner[1]}-size{corner[2]}",
)  # fmt: skip
def test_the_reference_draws_the_same(corner: tuple[bool, int, int], pair: Both) -> None:
    got, want = pair.draw(corner)
    agree(got, want, pair.variant.tolerance)
