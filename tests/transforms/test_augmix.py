"""AugMix: the official operations and magnitudes, drawn per sample."""

from __future__ import annotations

import math
from functools import partial

import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import AugMix
from diffaug_transforms.transforms.augmix import OPERATIONS
from tests import contracts

SIZE = 16


def test_contracts():
    make = partial(AugMix, severity=5)
    for dtype in (torch.float32, torch.float16, torch.uint8):
        contracts.check_type_shape_and_range(make, SIZE, dtype)
    for check in [*contracts.CHECKS, *contracts.CHECKS_OF_SEEDS]:
        check(make, SIZE)


def params(operation: str, level: float, sign: int = 1, strength: float = 1.0) -> dict:
    """One chain of one operation on one sample."""
    index = list(OPERATIONS).index(operation)
    return {
        "strength": torch.tensor([strength]),
        "weights": torch.ones(1, 1),
        "operations": torch.tensor([[[index]]]),
        "levels": torch.tensor([[[level]]]),
        "signs": torch.tensor([[[sign]]]),
    }


BILINEAR = PIL.Image.Resampling.BILINEAR

# Magnitudes by hand from google-research/augmix, for a level of 10. int() rounds towards zero.
CASES = {
    "autocontrast": (5.0, F.autocontrast),
    "equalize": (5.0, F.equalize),
    "posterize": (5.0, lambda image: F.posterize(image, 2)),  # 4 - int(4 * 0.5)
    "rotate": (9.9, lambda image: F.pil_to_tensor(F.to_pil_image(image[0]).rotate(-29, BILINEAR))),  # int(29.7)
    "solarize": (5.0, lambda image: F.solarize(image, 128)),  # 256 - int(256 * 0.5)
    "translate_x": (10.0, lambda image: F.pad(image[..., 5:], [0, 0, 5, 0])),  # int(16 / 3) to the left
    "translate_y": (10.0, lambda image: F.pad(image[..., 5:, :], [0, 0, 0, 5])),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_has_the_official_magnitude(name):
    level, expected = CASES[name]
    image = contracts.images(SIZE, 1, torch.uint8)
    output = AugMix().transform(image, params(name, level, sign=-1))
    assert (output.int() - expected(image).int()).abs().max() <= 1


@pytest.mark.parametrize(("name", "axis"), [("shear_x", -1), ("shear_y", -2)])
def test_shear_moves_rows_in_proportion_to_their_distance_from_the_corner(name, axis):
    ramp = torch.arange(SIZE, dtype=torch.float32).mul(8).expand(3, SIZE, SIZE)
    ramp = (ramp if axis == -1 else ramp.mT)[None].to(torch.uint8)
    output = AugMix().transform(ramp, params(name, 10.0)).float()  # a factor of 0.3
    moved = (output - ramp.float()).abs()[0, 0] / 8
    middle = moved[8, 8].item()
    assert math.isclose(middle, 0.3 * 8.5, abs_tol=0.3)


@pytest.mark.parametrize("height", [1, 16, 33])
def test_geometry_is_pillows(height):
    image = F.resize(contracts.images(SIZE, 1, torch.uint8)[0], [height, 20])
    pillow = F.to_pil_image(image)
    for level, sign in ((0.1, 1), (2.7, -1), (6.0, 1), (10.0, -1)):
        factor, shifts = sign * level * 0.03, [sign * int(level * side / 30) for side in (20, height)]
        matrices = {
            "shear_x": (1, factor, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, factor, 1, 0),
            "translate_x": (1, 0, -shifts[0], 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, -shifts[1]),
        }
        expected = {
            name: pillow.transform(pillow.size, PIL.Image.Transform.AFFINE, matrix, BILINEAR)
            for name, matrix in matrices.items()
        }
        expected["rotate"] = pillow.rotate(sign * int(level * 3), BILINEAR)
        for name, moved in expected.items():
            change = (OPERATIONS[name](image, level, sign).int() - F.pil_to_tensor(moved).int()).abs()
            assert change.max() <= 1, name
            assert (change > 0).float().mean() < 0.2, name


def test_a_mix_is_the_weighted_sum_of_its_chains():
    image = contracts.images(SIZE, 1, torch.uint8)
    draw = params("equalize", 1.0, strength=0.25)
    expected = 0.75 * image.float() + 0.25 * F.equalize(image).float()
    torch.testing.assert_close(AugMix().transform(image / 255, draw), expected / 255)
    draw["operations"][:] = -1  # an empty chain is the image
    torch.testing.assert_close(AugMix().transform(image / 255, draw), image / 255)


def test_draws_have_the_stated_distributions():
    draw = AugMix(severity=3).make_params([torch.zeros(4000, 3, 1, 1)])
    assert draw["weights"].shape == (4000, 3)
    torch.testing.assert_close(draw["weights"].sum(dim=1), torch.ones(4000))
    assert (draw["weights"].mean(dim=0) - 1 / 3).abs().max() < 0.02
    # Dirichlet(1, 1, 1): each weight is Beta(1, 2), of variance 1/18.
    assert (draw["weights"].var(dim=0) - 1 / 18).abs().max() < 0.005
    assert abs(draw["strength"].mean() - 0.5) < 0.02
    assert 0.1 <= draw["levels"].min() < 0.15
    assert 2.95 < draw["levels"].max() <= 3
    depth = (draw["operations"] >= 0).sum(dim=-1).flatten()
    assert [round((depth == d).float().mean().item(), 1) for d in (0, 1, 2, 3)] == [0, 0.3, 0.3, 0.3]
    assert set(draw["operations"].unique().tolist()) == set(range(-1, len(OPERATIONS)))
    assert set(draw["signs"].unique().tolist()) == {-1, 1}
    operations = AugMix(width=2, depth=5).make_params([torch.zeros(500, 3, 1, 1)])["operations"]
    assert operations.shape == (500, 2, 5)
    assert operations.min() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"severity": 0}, r"severity must be in \[0.1, 10\]. Got 0"),
        ({"severity": 11}, "Got 11"),
        ({"width": 0}, "width must be at least 1. Got 0"),
        ({"depth": 0}, "depth must be at least 1. Got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        AugMix(**options)


def test_bad_images():
    with pytest.raises(ValueError, match="1 or 3 channels. Got 4"):
        AugMix()(torch.rand(2, 4, 8, 8))
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        AugMix()(torch.full((2, 3, 8, 8), 2.0))
    transform = AugMix()
    with pytest.raises(ValueError, match="as many as drawn, 4. Got 2"):
        transform.transform(torch.rand(2, 3, 8, 8), transform.make_params([torch.rand(4, 3, 8, 8)]))
