"""Random changes of images: what they may do and how far they go."""

import pytest
import torch

from fedmodels.models.augment import augmented
from fedmodels.study import Training


def changed(x: torch.Tensor, *names: str, copies: int = 1) -> torch.Tensor:
    return augmented(x, Training(1, augment=names, augmentations=copies))


def test_without_changes_images_stay_as_they_are() -> None:
    x = torch.randn(3, 1, 8, 9)
    assert torch.equal(changed(x), x)


def test_copies_follow_each_other_and_differ() -> None:
    x = torch.rand(2, 3, 30, 40) * 2 - 1
    copies = changed(x, "flip", "shift", "brightness", copies=16)
    assert copies.shape == (32, 3, 30, 40)
    assert len({tuple(copy.flatten()[:50].tolist()) for copy in copies}) == 32
    nearest = [int(((copy - x) ** 2).mean((1, 2, 3)).argmin()) for copy in changed(x, "brightness", copies=16)]
    assert nearest == [0] * 16 + [1] * 16


def test_half_of_the_images_are_flipped_from_left_to_right() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4).repeat(400, 1, 1, 1)
    flipped = (changed(x, "flip") == x.flip(3)).flatten(1).all(1)
    straight = (changed(x, "flip") == x).flatten(1).all(1)
    assert 140 < int(flipped.sum()) < 260
    assert 140 < int(straight.sum()) < 260


def test_images_are_shifted_whole_by_at_most_a_tenth_and_repeat_their_edge() -> None:
    x = torch.arange(30.0)[:, None] * 100 + torch.arange(40.0)
    moved = changed(x.repeat(500, 2, 1, 1), "shift")
    down, right = moved[:, 0, 15, 20].div(100, rounding_mode="floor") - 15, moved[:, 0, 15, 20] % 100 - 20
    assert (set(down.tolist()), set(right.tolist())) == (set(range(-3, 4)), set(range(-4, 5)))
    for image, d, r in zip(moved[:20], down[:20].int(), right[:20].int(), strict=True):
        rows, columns = (torch.arange(30) + d).clamp(0, 29), (torch.arange(40) + r).clamp(0, 39)
        assert torch.equal(image[1], x[rows][:, columns])


def test_brightness_stays_in_the_range_and_within_its_bounds() -> None:
    x = (torch.rand(200, 1, 8, 8) * 2 - 1).clamp(-0.8, 0.8)
    difference = (changed(x, "brightness") - x).abs()
    assert 0.1 < difference.max() <= 0.1 + 0.08 + 1e-6
    assert changed(torch.ones(50, 1, 8, 8), "brightness").max() <= 1.0


def test_the_generator_of_torch_repeats_them() -> None:
    x, drawn = torch.randn(3, 1, 8, 8), []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(changed(x, "flip", "shift", "brightness", copies=2))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], changed(x, "flip", "shift", "brightness", copies=2))


def test_training_accepts_known_changes_alone() -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"rounds": 1, "augment": ["mixup"]}, Training)
