"""What LoRA, LoCon, LoHa, LoKr and DoRA do to a weight, against the papers' formulas written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffgen.adapters.formulas import decomposed, kind_of, one_number_a_row, rank_of, weight_change

RANDOM = np.random.default_rng(0)


def tensor(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RANDOM.standard_normal(shape))


def change(**roles: torch.Tensor) -> np.ndarray:
    found = weight_change(roles)
    assert found is not None
    # Shapes alone must come out the same way, since files are judged by them.
    meta = weight_change({role: value.to("meta") for role, value in roles.items()})
    assert meta is not None and meta.shape == found.shape
    return found.numpy()


def test_lora_is_a_product() -> None:
    up, down = tensor(6, 2), tensor(2, 5)
    np.testing.assert_allclose(change(up=up, down=down), up.numpy() @ down.numpy())


def test_locon_is_a_convolution_after_a_convolution() -> None:
    up, down, x = tensor(6, 2, 1, 1), tensor(2, 5, 3, 3), tensor(1, 5, 8, 8)
    merged = torch.nn.functional.conv2d(x, torch.from_numpy(change(up=up, down=down)), padding=1)
    twice = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up)
    torch.testing.assert_close(merged, twice)


def test_a_core_is_a_convolution_between_two() -> None:
    up, mid, down, x = tensor(6, 2, 1, 1), tensor(2, 3, 3, 3), tensor(3, 5, 1, 1), tensor(1, 5, 8, 8)
    merged = torch.nn.functional.conv2d(x, torch.from_numpy(change(up=up, mid=mid, down=down)), padding=1)
    conv = torch.nn.functional.conv2d
    torch.testing.assert_close(merged, conv(conv(conv(x, down), mid, padding=1), up))


def test_loha_multiplies_two_products_number_by_number() -> None:
    a, b, c, d = tensor(6, 2), tensor(2, 5), tensor(6, 2), tensor(2, 5)
    found = change(hada_w1_a=a, hada_w1_b=b, hada_w2_a=c, hada_w2_b=d)
    np.testing.assert_allclose(found, (a.numpy() @ b.numpy()) * (c.numpy() @ d.numpy()))


def test_loha_with_cores() -> None:
    a, b, c, d = tensor(2, 6), tensor(2, 5), tensor(2, 6), tensor(2, 5)
    s, t = tensor(2, 2, 3, 3), tensor(2, 2, 3, 3)
    found = change(hada_w1_a=a, hada_w1_b=b, hada_w2_a=c, hada_w2_b=d, hada_t1=s, hada_t2=t)
    # lycoris, `rebuild_tucker`: i and j of the core, p of a, r of b.
    one, two = (np.einsum("ijkl,ip,jr->prkl", *(x.numpy() for x in row)) for row in ((s, a, b), (t, c, d)))
    np.testing.assert_allclose(found, one * two)


@pytest.mark.parametrize("first", ["whole", "product"])
@pytest.mark.parametrize("second", ["whole", "product"])
def test_lokr_is_a_kronecker_product(first: str, second: str) -> None:
    roles, parts = {}, []
    for side, (rows, columns), kind in ((1, (2, 3), first), (2, (4, 5), second)):
        if kind == "whole":
            roles[f"lokr_w{side}"] = tensor(rows, columns)
            parts.append(roles[f"lokr_w{side}"].numpy())
        else:
            roles[f"lokr_w{side}_a"], roles[f"lokr_w{side}_b"] = tensor(rows, 2), tensor(2, columns)
            parts.append(roles[f"lokr_w{side}_a"].numpy() @ roles[f"lokr_w{side}_b"].numpy())
    np.testing.assert_allclose(change(**roles), np.kron(*parts))


def test_lokr_of_convolutions() -> None:
    one, two = tensor(2, 3), tensor(4, 5, 3, 3)
    found = change(lokr_w1=one, lokr_w2=two)
    expected = np.stack([np.stack([np.kron(one, two[:, :, y, x]) for x in range(3)], -1) for y in range(3)], -2)
    np.testing.assert_allclose(found, expected)
    # lycoris keeps the window in the columns of the second factor, and views the product as the convolution.
    flat = change(lokr_w1=one, lokr_w2=two.flatten(1))
    np.testing.assert_allclose(flat.reshape(8, 15, 3, 3), expected)
    core, a, b = tensor(2, 2, 3, 3), tensor(2, 4), tensor(2, 5)
    second = np.einsum("ijkl,ip,jr->prkl", core, a, b)
    found = change(lokr_w1=one, lokr_w2_a=a, lokr_w2_b=b, lokr_t2=core)
    np.testing.assert_allclose(found, weight_change({"lokr_w1": one, "lokr_w2": torch.from_numpy(second)}))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3)])
@pytest.mark.parametrize("by_row", [True, False])
def test_dora_keeps_direction_and_sets_magnitude(shape: tuple[int, ...], by_row: bool) -> None:
    weight, moved = tensor(*shape), tensor(*shape) * 0.1
    magnitude = tensor(shape[0] if by_row else shape[1]).abs()
    found = weight + decomposed(weight, moved, magnitude, by_row=by_row)
    lengths = found.flatten(1).norm(dim=1) if by_row else found.transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, magnitude)
    direction = (weight + moved) / found
    for k in range(magnitude.numel()):
        part = direction[k] if by_row else direction[:, k]
        torch.testing.assert_close(part, part.flatten()[0].expand_as(part))


def test_whose_numbers_the_magnitudes_are() -> None:
    assert one_number_a_row({"dora_scale": (6, 1)}, 6)
    assert not one_number_a_row({"dora_scale": (1, 6)}, 6)
    assert one_number_a_row({"magnitude": (1, 6, 1, 1)}, 6)


def test_alpha_is_over_the_rank() -> None:
    assert rank_of({"up": (6, 2), "down": (2, 5)}) == 2
    assert rank_of({"hada_w1_a": (6, 3), "hada_w1_b": (3, 5)}) == 3
    assert rank_of({"lokr_w1": (2, 2), "lokr_w2_a": (4, 3), "lokr_w2_b": (3, 5)}) == 3
    assert rank_of({"lokr_w1": (2, 2), "lokr_w2": (4, 4)}) is None


def test_kinds_have_names() -> None:
    assert kind_of({"up": 0, "down": 0, "dora_scale": 0}) == "LoRA with DoRA"
    assert kind_of({"up": 0, "down": 0, "mid": 0}) == "LoCon"
    assert [kind_of({role: 0}) for role in ("lokr_w1_a", "hada_w1_a", "diff")] == ["LoKr", "LoHa", "full"]
