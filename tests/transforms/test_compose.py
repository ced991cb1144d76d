"""compose_with: names, halves, labels, what may follow; the loss by hand; the recipes."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import AugMix, DeepAugment, DiffAug, compose_with
from diffaug_transforms.transforms import RECIPES, ViewsLoss, recipe
from diffaug_transforms.transforms.deepaugment import DeepAugmentUnion
from tests import contracts

SIZE = 16


class DeepAugmentLike(v2.RandomInvert):
    """Its name starts with that of a kind."""


def test_views_are_named_in_order_and_of_a_kind(network):
    views = compose_with(AugMix(), AugMix(), DeepAugmentLike(p=1.0), DeepAugment(), diffaug=DiffAug(network))
    batch = views(contracts.images(SIZE))
    assert list(batch) == ["clean", "augmix1", "augmix2", "deepaugmentlike", "deepaugment", "diffaug"]
    assert list(views.kinds.values()) == ["clean", *["augmented"] * 3, "deepaugment", "diffaug"]
    assert all(type(view) is tv_tensors.Image and view.shape == (4, 3, SIZE, SIZE) for view in batch.values())
    assert torch.equal(batch["clean"], contracts.images(SIZE))
    assert torch.equal(batch["deepaugmentlike"], 1 - contracts.images(SIZE))
    assert len({view.sum().item() for view in batch.values()}) == 6


def test_diffaug_starts_from_the_original_whatever_the_clean_view_is(network):
    diffaug, image = DiffAug(network), contracts.images(SIZE)
    flip = v2.Lambda(F.horizontal_flip)
    for options, start in (
        ({}, image),
        ({"clean": flip}, image),
        ({"clean": flip, "original": v2.Identity()}, image),
        ({"original": flip}, image.flip(-1)),
    ):
        views = contracts.seeded(compose_with(diffaug=diffaug, **options), image)
        assert list(views) == ["clean", "diffaug"]
        assert torch.equal(views["diffaug"], contracts.seeded(diffaug, start))
        assert torch.equal(views["clean"], image.flip(-1) if "clean" in options else image)


class Photos(torch.utils.data.Dataset):
    def __init__(self, views):
        self.views = views

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.views(F.to_pil_image(contracts.images(SIZE, seed=index)[0])), index


def test_the_halves_run_in_workers_and_on_the_batch(network):
    views = compose_with(AugMix(), diffaug=DiffAug(network), clean=v2.RandomHorizontalFlip())
    per_sample = pickle.loads(pickle.dumps(views.per_sample))
    for batch, labels in DataLoader(Photos(per_sample), batch_size=3, num_workers=1):
        assert set(batch) == {"clean", "augmix", "original"}
        assert batch["clean"].dtype == torch.uint8
        result = views.per_batch(batch, labels)
        assert list(result) == ["clean", "augmix", "diffaug"]
        assert result["diffaug"].dtype == torch.uint8
        assert not torch.equal(result["diffaug"], batch["original"])
    with pytest.warns(DeprecationWarning, match="Views.on_batch is now per_batch"):
        assert views.on_batch is views.per_batch


@pytest.mark.parametrize("diffaug", [None, DiffAug("cifar10")])
def test_prepared_diffaug_views_pass_through(diffaug):
    prepared = {"clean": contracts.images(SIZE), "diffaug": contracts.images(SIZE, seed=1)}
    assert torch.equal(compose_with(diffaug=diffaug).per_batch(prepared)["diffaug"], prepared["diffaug"])


def test_labels_travel_to_conditional_networks(conditional):
    diffaug, image = DiffAug(conditional, conditional=True), contracts.images(SIZE)
    views = compose_with(diffaug=diffaug)
    for labels in (torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 4, 4])):
        expected, _ = contracts.seeded(diffaug, image, labels)
        assert torch.equal(contracts.seeded(views, image, labels)["diffaug"], expected)
    with pytest.raises(ValueError, match="labels"):
        views(image)


@pytest.mark.parametrize("mixing", [v2.MixUp, v2.CutMix])
def test_mixing_after_it_mixes_all_views_alike(network, mixing):
    batch = compose_with(AugMix(), diffaug=DiffAug(network))(contracts.images(SIZE), torch.arange(4))
    mixed, targets = contracts.seeded(mixing(num_classes=4), batch, torch.arange(4), seed=3)
    assert targets.shape == (4, 4)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    for name, view in batch.items():
        expected, _ = contracts.seeded(mixing(num_classes=4), view, torch.arange(4), seed=3)
        assert torch.equal(mixed[name], expected)
        assert not torch.equal(mixed[name], view)
    assert ViewsLoss()({name: torch.randn(4, 4) for name in mixed}, targets).isfinite()


def test_parameters_and_state_are_the_models_alone(network):
    views = compose_with(AugMix(), DeepAugment(), diffaug=DiffAug(network))
    assert not list(views.parameters())
    assert not views.state_dict()


NAN = math.nan
LOGITS = torch.zeros(2, 3)
BAD_CALLS = [
    (lambda: compose_with("augmix"), "augmentations must be transforms, such as AugMix(). Got 'augmix'"),
    (lambda: compose_with(AugMix), "augmentations must be transforms"),
    (lambda: compose_with(AugMix(), DiffAug("cifar10")), "pass it as diffaug="),
    (lambda: compose_with(diffaug=5), "diffaug must be a DiffAug or str or Path or ScoreNetwork or Denoiser, or None"),
    (lambda: compose_with(clean="crop"), "clean must be a transform or None. Got 'crop'"),
    (lambda: ViewsLoss(jsd=-1), "jsd must be at least 0. Got -1"),
    (lambda: ViewsLoss(jsd=NAN), "jsd must be at least 0. Got nan"),
    (lambda: ViewsLoss(clean="1"), "clean must be a number. Got '1'"),
    (lambda: ViewsLoss(kinds={"x": "flip"}), "kinds must be one of clean, augmented, deepaugment, diffaug. Got 'flip'"),
    (lambda: ViewsLoss(kinds=["clean"]), "kinds must be a Mapping"),
    (lambda: ViewsLoss()({"diffaug": LOGITS}, torch.zeros(2).long()), "views must hold 'clean'. Got ['diffaug']"),
    (
        lambda: ViewsLoss()(LOGITS, torch.zeros(2).long()),
        'logits must be a Mapping of views, such as {"clean": logits}',
    ),
    (lambda: ViewsLoss()({"clean": LOGITS, "x": LOGITS[:1]}, torch.zeros(2).long()), "Got (1, 3) for 'x'"),
    (lambda: ViewsLoss()({"clean": LOGITS}, torch.zeros(3).long()), "targets must be classes (2,), or probabilities"),
    (lambda: ViewsLoss()({"clean": LOGITS}, torch.zeros(2)), "Got shape (2,)"),
    (lambda: ViewsLoss()({"clean": LOGITS}, [0, 1]), "targets must be int64 (2,), or probabilities. Got [0, 1]"),
    (lambda: ViewsLoss()({"clean": LOGITS}, torch.tensor([0, 3])), "targets must be in 0...2. Got 3"),
    (lambda: recipe("autoaugment"), "recipe must be one of baseline, "),
    (lambda: recipe("augmix+augmix"), "Got 'augmix+augmix'"),
    (lambda: recipe(None), "Got None"),
    (lambda: recipe("deepaugment", deepaugment="noise2net"), "deepaugment must be a DeepAugment"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_arguments(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert message in str(caught.value)


def test_a_network_for_diffaug_is_that_of_one_with_defaults(network):
    views = compose_with(AugMix(), diffaug=network)
    assert list(views(contracts.images(SIZE))) == ["clean", "augmix", "diffaug"]
    assert recipe("diffaug", diffaug="cifar10")[0].per_batch.diffaug.denoiser.source == "cifar10"


def test_an_empty_batch_has_no_loss():
    empty = torch.empty(0, 5, requires_grad=True)
    loss = ViewsLoss()({"clean": empty, "augmix1": empty, "diffaug": empty}, torch.empty(0, dtype=torch.int64))
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize("name", ["diffaug+augmix", "augmix+diffaug+deepaugment"])
def test_the_parts_of_a_recipe_in_any_order(name, network):
    ordered = next(known for known in RECIPES if sorted(known.split("+")) == sorted(name.split("+")))
    assert recipe(name, diffaug=network)[0].kinds == recipe(ordered, diffaug=network)[0].kinds


def logits_of(p: float) -> torch.Tensor:
    """Two classes of probability p and 1 - p."""
    return torch.tensor([[math.log(p), math.log(1 - p)]])


def test_the_loss_by_hand():
    label = torch.tensor([0])
    logits = {"clean": logits_of(0.5), "diffaug": logits_of(0.25), "deepaugment2": logits_of(0.125)}
    assert math.isclose(ViewsLoss()(logits, label), math.log(2) + math.log(4) + math.log(8), rel_tol=1e-5)
    weighted = ViewsLoss(clean=0, diffaug=2, deepaugment=0)
    assert math.isclose(weighted(logits, label), 2 * math.log(4), rel_tol=1e-5)
    # JSD of (1/2, 1/2) and (1/4, 3/4) about their mean (3/8, 5/8). DiffAug's view has no part in it.
    kl_clean = 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)
    kl_augmented = 0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)
    divergence = (kl_clean + kl_augmented) / 2
    logits = {"clean": logits_of(0.5), "augmix1": logits_of(0.25), "diffaug": logits_of(0.25)}
    expected = math.log(2) + math.log(4) + 12 * divergence
    assert math.isclose(ViewsLoss()(logits, label), expected, rel_tol=1e-5)
    expected += math.log(4) - 6 * divergence
    assert math.isclose(ViewsLoss(augmented=1, jsd=6)(logits, label), expected, rel_tol=1e-5)


def test_the_kinds_of_a_composition_come_before_the_names():
    logits = {"clean": logits_of(0.5), "deepaugmentlike": logits_of(0.25)}
    label = torch.tensor([0])
    divergence = ViewsLoss()({"clean": logits_of(0.5), "x": logits_of(0.25)}, label)
    assert ViewsLoss(kinds=compose_with(DeepAugmentLike()).kinds)(logits, label) == divergence
    assert math.isclose(ViewsLoss()(logits, label), math.log(2) + math.log(4), rel_tol=1e-5)


def test_the_divergence_is_zero_for_equal_views_and_finite_for_opposite_ones():
    label, sure = torch.tensor([0]), torch.tensor([[200.0, -200.0]])
    loss = ViewsLoss(clean=0)
    assert loss({"clean": sure, "augmix1": sure, "augmix2": sure}, label) == 0
    opposite = -sure.clone().requires_grad_()
    value = loss({"clean": sure, "augmix": opposite}, label)
    assert math.isclose(value.item(), 12 * math.log(2), rel_tol=1e-4)
    value.backward()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name, network):
    views, loss = recipe(name, diffaug=DiffAug(network))
    batch = views(contracts.images(SIZE))
    parts = name.split("+")
    expected = ["clean"] + ["augmix1", "augmix2"] * ("augmix" in parts)
    expected += ["deepaugment"] * (name.startswith("deepaugment") and "augmix" not in parts)
    assert list(batch) == expected + ["diffaug"] * ("diffaug" in parts)
    logits = {key: view.flatten(1)[:, :5].as_subclass(torch.Tensor) for key, view in batch.items()}
    assert loss(logits, torch.arange(4)) > 0


class Inverted(DeepAugment):
    """Its distorted images are known: 1 - image, or all of one value."""

    def __init__(self, value: float | None = None):
        super().__init__()
        self.value = value

    def transform(self, inpt, params):
        assert len(params["network_seed"]) == len(inpt)
        return 1 - inpt if self.value is None else torch.full_like(inpt, self.value)


@pytest.mark.parametrize("networks", [(Inverted(),), (Inverted(), Inverted(0.5))], ids=["one", "two"])
def test_each_image_of_a_batch_is_drawn_from_the_union(network, networks):
    """AugMix starts from the union, DiffAug from the original. All shares are equal."""
    deepaugment = networks[0] if len(networks) == 1 else networks
    views, _ = recipe("deepaugment+augmix+diffaug", diffaug=DiffAug(network, p=0.0), deepaugment=deepaugment)
    image = contracts.images(SIZE, batch=1200)
    batch = contracts.seeded(views.per_sample, image)
    clean = batch["clean"].as_subclass(torch.Tensor)
    distorted = [1 - image, torch.full_like(image, 0.5)][: len(networks)]
    shares = [(clean == kind).flatten(1).all(1).sum().item() for kind in (image, *distorted)]
    assert sum(shares) == 1200
    # Standard deviation of a share: at most 18 images.
    assert all(abs(share - 1200 / len(shares)) < 72 for share in shares)
    assert torch.equal(batch["original"].as_subclass(torch.Tensor), image)


@pytest.mark.parametrize("check", contracts.CHECKS)
def test_contracts_of_the_union(check):
    check(lambda: DeepAugmentUnion([DeepAugment(), DeepAugment()]), SIZE)


def test_the_union_keeps_the_exact_values_of_other_images():
    union = DeepAugmentUnion([DeepAugment(), DeepAugment()])
    for dtype in (torch.uint8, torch.float64):
        batch = contracts.images(SIZE, 12, dtype)
        params = union.make_params([batch])
        output = union.transform(batch, params)
        assert (output.dtype, output.shape) == (dtype, batch.shape)
        kept = params["choice"] == 0
        assert torch.equal(output[kept], batch[kept])
        assert all((output[i] != batch[i]).any() for i in (~kept).nonzero().flatten())
        assert torch.equal(union.transform(batch, params), output)
    assert torch.equal(pickle.loads(pickle.dumps(union)).transform(batch, params), output)


def test_several_deepaugments_are_views_of_their_own(network):
    views, _ = recipe("deepaugment", deepaugment=[DeepAugment(), DeepAugment()])
    assert list(views(contracts.images(SIZE))) == ["clean", "deepaugment1", "deepaugment2"]
    for wrong in ("edsr", [DeepAugment(), "cae"], []):
        with pytest.raises(TypeError, match="deepaugment must be a DeepAugment, several in a list, or None"):
            recipe("deepaugment", deepaugment=wrong)
