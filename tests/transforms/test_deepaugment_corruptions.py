"""Every corruption of DeepAugment's weights, features and codes, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffaug_transforms.transforms.deepaugment import cae, edsr
from diffaug_transforms.transforms.deepaugment import weights as change
from tests.transforms.deepaugment_files import generator, random_weights

WEIGHT = torch.arange(36.0).reshape(2, 2, 3, 3) - 10


def one_hot(filters: int = 8) -> Tensor:
    """Filters whose first kernel is 1 in the middle, and whose other kernels are 0."""
    weight = torch.zeros(filters, filters, 3, 3)
    weight[:, 0, 1, 1] = 1
    return weight


def test_changes_without_draws():
    source = generator()
    assert torch.equal(change.reverse_filters(WEIGHT, source), torch.stack([WEIGHT[1], WEIGHT[0]]))
    assert torch.equal(change.reverse_filters(torch.tensor([1.0, 2.0]), source), torch.tensor([2.0, 1.0]))
    assert torch.equal(change.negate(WEIGHT, source), 0 - WEIGHT)
    assert not change.zero(WEIGHT, source).any()
    assert change.mirror(WEIGHT, source)[0, 0, 0].tolist() == [-8, -9, -10]
    # -x times the normal distribution function at x.
    expected = [-0.5 * (1 + math.erf(1 / math.sqrt(2))), 0.5 * (1 - math.erf(1 / math.sqrt(2)))]
    assert change.negative_gelu(torch.tensor([1.0, -1.0]), source).tolist() == pytest.approx(expected)
    kernels = torch.tensor([[1.0, -5, 2], [0, 1, 1.5], [-1, -1, 0]]).expand(2, 3, 3, 3)
    only = torch.zeros(3, 3).index_put((torch.tensor(0), torch.tensor(2)), torch.tensor(2.0))
    assert torch.equal(change.keep_largest(kernels, source), only.expand(2, 3, 3, 3))
    four, eight = (f(torch.ones(2, 2, 3, 3), source) for f in (change.times_laplacian_4, change.times_laplacian_8))
    assert four[1, 0].tolist() == [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    assert eight[0, 1].tolist() == [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]


def test_stretch():
    factors = torch.stack([change.stretch(torch.ones(64, 64), generator(seed), most=4) for seed in range(200)])
    assert 1 <= factors.min() < factors.max() <= 5
    # 1 + 4 u r with u one per layer: the mean over weights is 1 + 2 u.
    assert factors.mean().item() == pytest.approx(2, abs=0.15)
    assert 1.0 <= factors.mean((1, 2)).min() < 1.1
    assert 2.9 < factors.mean((1, 2)).max() <= 3.05


def test_mixing_kernels():
    shifted = change.sum_of_shifts(one_hot(), generator())
    assert torch.equal(shifted, shifted[:1, :1].expand_as(shifted))
    assert sorted(shifted[0, 0].abs().flatten().tolist()) == [0] * 8 + [1]
    uniform = change.mix_uniform(one_hot(64), generator())
    assert -1 / 6 - 1e-6 <= uniform.min() < -0.16
    assert uniform.max() <= 1 / 6
    dirichlet = change.mix_dirichlet(one_hot(64), generator())
    assert dirichlet.min() >= 0
    torch.testing.assert_close(dirichlet.sum((2, 3)), torch.ones(64, 64))
    # One-hot kernels in the limit of concentration 0: the largest share is large on average.
    assert dirichlet[0].amax((1, 2)).mean() > 0.6


def test_dirichlet_draws_leave_the_callers_seed_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = change.mix_dirichlet(one_hot(), generator(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(change.mix_dirichlet(one_hot(), generator(1)), first)


def test_random_masks_and_noise():
    ones = torch.ones(64, 64, 3, 3)
    assert change.add_noise(0 * ones, generator()).aminmax() == pytest.approx((-0.5, 0.5), abs=1e-3)
    assert change.flip_signs(ones, generator()).mean().abs() < 0.03
    assert set(change.flip_signs(ones, generator()).unique().tolist()) == {-1, 1}
    assert change.drop_weights(ones, generator()).mean().item() == pytest.approx(0.5, abs=0.02)
    kinds = {tuple(cae.random_mask(ones, generator(seed)).unique().tolist()) for seed in range(10)}
    assert kinds == {(0, 1), (-1, 1)}


def test_rotate():
    planes = ((2, 3), (0, 1))
    expected = [WEIGHT.rot90(k, plane) for plane in planes for k in (1, 2, 3)]
    found = [change.rotate(WEIGHT, generator(seed), planes) for seed in range(60)]
    hits = [sum(torch.equal(weight, turned) for weight in found) for turned in expected]
    assert sum(hits) == 60
    assert min(hits) > 2


def test_negate_filters():
    negated = change.negate_filters(torch.ones(64, 2, 3, 3), generator(), divisor=2)
    signs = negated[:, 0, 0, 0]
    assert torch.equal(negated, signs.reshape(-1, 1, 1, 1).expand_as(negated))
    # 32 draws with replacement hit 64 (1 - (63 / 64)^32) = 25.3 filters on average.
    assert 18 <= int((signs == -1).sum()) <= 32
    assert int((change.negate_filters(torch.ones(5, 1, 1, 1), generator(), divisor=5) == -1).sum()) == 1


def test_some_filters_are_changed_with_their_biases():
    weight, bias = torch.ones(64, 2, 3, 3), torch.ones(128)
    changed, changed_bias = cae.some_filters(change.zero, 25, weight, bias, generator())
    zeroed = (changed == 0).all(3).all(2).all(1)
    assert 15 <= int(zeroed.sum()) <= 25
    assert torch.equal(changed_bias[:64] == 0, zeroed)
    assert weight.all()
    assert bias.all()
    # Twice negated is as before.
    twice, _ = cae.some_filters(change.negate, 2, torch.ones(1, 1, 1, 1), torch.ones(1), generator())
    assert twice.item() == 1


def test_corrupted_weights_are_functions_of_the_seed():
    for name, corrupt in (("edsr", edsr.corrupt_edsr_weights), ("cae", cae.corrupt_cae_weights)):
        weights = random_weights(name)
        before = {key: value.clone() for key, value in weights.items()}
        # Enough seeds to meet every row of the tables.
        corrupted = [corrupt(weights, generator(seed)) for seed in range(40)]
        assert all(torch.equal(weights[key], before[key]) for key in before)
        assert all({k: v.shape for k, v in c.items()} == {k: v.shape for k, v in before.items()} for c in corrupted)
        changed = [sum(not torch.equal(c[key], before[key]) for key in before) for c in corrupted]
        assert sum(count > 0 for count in changed) > 35
        assert max(changed) < len(before) / 2
        again = corrupt(weights, generator(3))
        assert all(torch.equal(again[key], corrupted[3][key]) for key in before)


@pytest.mark.parametrize("row", range(17))
def test_each_row_of_edsrs_table_changes_its_own_tensors(row):
    weights, corruption = random_weights("edsr"), edsr.EDSR_CORRUPTIONS[row]
    allowed = {f"body.{block}.body.{name}" for block in corruption.blocks for name in corruption.changes}
    corrupted = [edsr.apply_corruption(weights, corruption, generator(seed)) for seed in range(6)]
    changed = [{key for key in weights if not torch.equal(new[key], weights[key])} for new in corrupted]
    most = corruption.repeats * (1 if corruption.either else len(corruption.changes))
    assert all(1 <= len(keys) <= most and keys <= allowed for keys in changed)
    assert len(set(map(frozenset, changed))) > 1


def test_tables_have_the_originals_lengths():
    tables = (edsr.EDSR_CORRUPTIONS, edsr.HEAD_DISTORTIONS, edsr.BODY_DISTORTIONS)
    assert [len(table) for table in tables] == [17, 4, 5]
    assert [len(table) for table in (cae.CAE_CORRUPTIONS, cae.CODE_DISTORTIONS, cae.LAYERS)] == [8, 9, 21]
    names = list(cae.LAYERS)
    assert (names[8], names[11], names[13], names[15]) == ("e_conv_3.0", "d_block_1.1", "d_block_2.1", "d_block_3.1")


def test_head_distortions():
    x = torch.arange(1.0, 65).reshape(1, 64, 1, 1).expand(1, 64, 60, 60)
    copied = edsr.copy_channels(x, generator())[0, :, 0, 0]
    assert 1 <= int((copied != x[0, :, 0, 0]).sum()) <= 5
    assert len(copied.unique()) < 64
    assert (edsr.drop_features(x, generator()) == 0).float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert (edsr.negate_features(x, generator()) < 0).float().mean().item() == pytest.approx(0.025, abs=0.004)
    assert edsr.keep(x, generator()) is x


#: Seventeen parts that add 1, 2, 4, ...: a result tells which of them ran.
PARTS = [lambda x, i=i: x + 2.0**i for i in range(17)]


def test_body_distortions():
    x = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    first, rest = 2**5 - 1, 2**17 - 2**5
    assert (edsr.plain_body(PARTS, x, generator()) == first + rest).all()
    assert (edsr.negated_body(PARTS, x, generator()) == rest - first).all()
    rectified = [edsr.rectified_body(PARTS, x - 32, generator(seed)).mean().item() - rest for seed in range(60)]
    # ReLU(-1) = 0, GELU(-1) = -0.1587.
    assert 8 <= sum(value == 0 for value in rectified) <= 32
    assert min(rectified) == pytest.approx(-0.15866, abs=1e-4)
    for seed in range(20):
        last = int(edsr.last_part(PARTS, x, generator(seed)).mean())
        assert last in (2**13, 2**14, 2**15, 2**16)


def test_flipped_body():
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    parts = [lambda x: x] * 17
    found = [edsr.flipped_body(parts, x, generator(seed)) for seed in range(60)]
    upside_down = sum(torch.equal(y, x.flip(1, 2)) for y in found)
    assert 8 <= upside_down <= 32
    assert upside_down + sum(torch.equal(y, x.flip(1, 3)) for y in found) == 60


CODE = torch.rand(1, 32, 6, 7, generator=generator(9)) * 2 - 1


def test_code_distortions_of_pixels_and_bits():
    ones = torch.ones(1, 32, 100, 100)
    dropped, negated = cae.drop_pixels(ones, generator()), cae.negate_pixels(ones, generator())
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.015)
    assert torch.equal(negated, negated[:, :1].expand_as(negated))
    assert (negated == -1).float().mean().item() == pytest.approx(0.1, abs=0.012)
    stretched = torch.stack([cae.stretch_bits(torch.ones(1, 32, 8, 8), generator(seed)) for seed in range(50)])
    assert 3 <= stretched.min() < 3.1 < 6 < stretched.max() <= 7
    bits = cae.binarize(0.5 * ones, generator())
    assert bits.mean().item() == pytest.approx(0.75, abs=0.01)
    assert set(bits.unique().tolist()) == {0, 1}


def test_code_distortions_of_channels():
    permuted = cae.permute_channels(CODE, generator())
    assert torch.equal(permuted[:, 10:], CODE[:, 10:])
    assert torch.equal(permuted[:, :10].sort(1).values, CODE[:, :10].sort(1).values)
    assert not torch.equal(permuted, CODE)
    flips = [CODE.flip(axes) for axes in ((2,), (3,), (2, 3))]
    hits = [sum(torch.equal(cae.flip_code(CODE, generator(seed)), flip) for seed in range(30)) for flip in flips]
    assert sum(hits) == 30
    assert min(hits) > 3
    flipped = cae.flip_channels(CODE, generator())
    changed = (flipped != CODE).flatten(2).any(2)[0].nonzero().flatten()
    assert 1 <= len(changed) <= 5
    assert any(torch.equal(flipped[:, changed], flip[:, changed]) for flip in flips)


def test_code_distortions_by_convolution():
    mixed = cae.mix_channels(CODE, generator()) - CODE
    # The sum of 32 times 9 products of uniform noise in [-0.1, 0.1] and a code of variance 1/3.
    assert mixed[..., 1:-1, 1:-1].std().item() == pytest.approx(0.1 / math.sqrt(3) * math.sqrt(288 / 3), rel=0.3)
    impulse = torch.zeros(1, 32, 5, 5)
    impulse[..., 2, 2] = 1
    shifted = cae.shift_channels(impulse, generator())
    assert (shifted.sum((2, 3)) == 1).all()
    assert not torch.equal(shifted, impulse)
    places = shifted.flatten(2).argmax(2)[0].tolist()
    # A channel's shift is mostly the one before it: 0.2 times 8/9 of 31 change, 5.5 on average.
    assert 1 <= sum(a != b for a, b in itertools.pairwise(places)) <= 14
    added = cae.add_channels(impulse, generator())
    assert 8 <= int((added.sum((2, 3)) == 2).sum()) <= 24
    assert set(added.sum((2, 3)).unique().tolist()) <= {1, 2}
