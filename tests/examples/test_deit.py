"""DeiT III's recipe for the clean view, beside DiffAug's view with its own label."""

from __future__ import annotations

import pickle
import random
from itertools import pairwise

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
import torch.nn.functional as F
from deit import RandAugment, RecipeLoss, build_with_drop_path, clean_transform, mix_clean, mixing, three_augment
from sample_views import Batches
from torchvision.transforms import v2
from train_classifier import build_classifier, build_views, parse_arguments

from diffaug_transforms import DiffAug
from diffaug_transforms.classifiers import load_classifier, save_classifier
from diffaug_transforms.images import sample_images
from diffaug_transforms.transforms import ViewsLoss, recipe
from diffaug_transforms.transforms.views_loss import jensen_shannon_divergence
from tests import contracts

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IMAGE = sample_images()["cat"].resize((48, 48))


def draws(transform: v2.Transform, number: int) -> list[PIL.Image.Image]:
    torch.manual_seed(0)
    return [transform(IMAGE) for _ in range(number)]


def test_three_augment_is_one_of_grey_solarize_and_blur():
    choice, jitter = three_augment().transforms
    grey = np.asarray(PIL.ImageOps.grayscale(IMAGE).convert("RGB"))
    solarized = np.asarray(PIL.ImageOps.solarize(IMAGE))
    roughness = np.abs(np.diff(np.asarray(IMAGE, dtype=int), axis=1)).mean()
    kinds = {"grey": 0, "solarized": 0, "blurred": 0}
    for image in draws(choice, 150):
        pixels = np.asarray(image)
        if np.array_equal(pixels, grey):
            kinds["grey"] += 1
        elif np.array_equal(pixels, solarized):
            kinds["solarized"] += 1
        else:  # smoother than the image, and of the same mean
            assert np.abs(np.diff(pixels.astype(int), axis=1)).mean() <= roughness
            assert pixels.mean() == pytest.approx(np.asarray(IMAGE).mean(), abs=2)
            kinds["blurred"] += 1
    assert all(30 <= count <= 70 for count in kinds.values())
    assert {tuple(getattr(jitter, name)) for name in ("brightness", "contrast", "saturation")} == {(0.7, 1.3)}
    assert jitter.hue is None


def test_randaugment_follows_torchs_seed_alone():
    """As in DataLoader workers, whose images must not depend on what ``random`` and NumPy drew before."""
    transform = pickle.loads(pickle.dumps(RandAugment("rand-m9-mstd0.5-inc1", 48)))
    random.seed(1)
    np.random.seed(1)
    first = [image.tobytes() for image in draws(transform, 8)]
    random.seed(2)
    np.random.seed(2)
    assert [image.tobytes() for image in draws(transform, 8)] == first
    assert len(set(first)) > 4


def test_randaugment_at_its_largest_magnitude():
    """Posterizing never asks Pillow for 0 bits."""
    assert len(draws(RandAugment("rand-m10-n6-p1-inc1", 48), 40)) == 40


@pytest.mark.parametrize("augment", [None, "three", "rand-m9-mstd0.5-inc1"])
@pytest.mark.parametrize("size", [32, 96])
def test_the_clean_view_has_its_size(augment, size):
    assert {image.size for image in draws(clean_transform(size, augment), 3)} == {(size, size)}


def options(monkeypatch: pytest.MonkeyPatch, *words: str):
    monkeypatch.setattr("sys.argv", ["train_classifier.py", "--output", "runs/x", *words])
    return parse_arguments()


def views(number: int = 6) -> dict[str, torch.Tensor]:
    clean = torch.randint(0, 256, (number, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {"clean": clean, "diffaug": clean.flip(-1)}


def test_mixing_changes_the_clean_view_alone(monkeypatch):
    batch, labels = views(), torch.arange(6)
    mix = mixing(options(monkeypatch, "--mixup", "0.8", "--cutmix", "1"), 6)
    torch.manual_seed(0)
    kinds = set()
    for _ in range(20):
        mixed, targets = mix_clean(mix, batch, labels)
        assert mixed["diffaug"] is batch["diffaug"]
        share = targets.gather(1, labels[:, None])[:, 0]
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        torch.testing.assert_close(targets.gather(1, labels.roll(1)[:, None])[:, 0], 1 - share)
        clean = v2.functional.to_dtype(batch["clean"], torch.float32, scale=True)
        whole = share[:, None, None, None] * clean + (1 - share[:, None, None, None]) * clean.roll(1, 0)
        if torch.allclose(mixed["clean"], whole, atol=1e-6):
            kinds.add("mixup")
        else:
            own = (mixed["clean"] == clean).all(dim=1).float().mean(dim=(1, 2))
            torch.testing.assert_close(own, share, atol=1e-4, rtol=0)
            kinds.add("cutmix")
    assert kinds == {"mixup", "cutmix"}
    assert mixing(options(monkeypatch), 6) is None
    unmixed, targets = mix_clean(None, batch, labels)
    assert unmixed is batch
    assert targets is labels


def test_the_loss_is_deits_of_the_clean_view_and_cross_entropy_of_diffaugs():
    torch.manual_seed(0)
    logits = {name: torch.randn(4, 5) for name in ("clean", "diffaug")}
    labels = torch.tensor([0, 1, 2, 2])
    targets = 0.7 * F.one_hot(labels, 5).float() + 0.3 * F.one_hot(labels.roll(1), 5).float()
    diffaug = F.cross_entropy(logits["diffaug"], labels)
    log_p = logits["clean"].log_softmax(1)

    def loss(targets: torch.Tensor, **choice: object) -> torch.Tensor:
        return RecipeLoss(ViewsLoss(), **choice)(logits, labels, targets)

    torch.testing.assert_close(loss(labels), ViewsLoss()(logits, labels))
    torch.testing.assert_close(loss(targets), -(targets * log_p).sum(1).mean() + diffaug)
    smoothed = 0.9 * targets + 0.1 / 5
    torch.testing.assert_close(loss(targets, label_smoothing=0.1), -(smoothed * log_p).sum(1).mean() + diffaug)
    p, present = logits["clean"].sigmoid(), (targets > 0).float()
    assert present.sum() == 7  # two classes each, but the last two images are of one class
    expected = -(present * p.log() + (1 - present) * (1 - p).log()).mean()
    torch.testing.assert_close(loss(targets, bce=True), expected + diffaug)
    one_hot = F.one_hot(labels, 5)
    expected = -(one_hot * p.log() + (1 - one_hot) * (1 - p).log()).mean()
    torch.testing.assert_close(loss(labels, bce=True), expected + diffaug)


@pytest.mark.parametrize("prepared", [False, True])
def test_the_weight_of_augmixs_consistency_reaches_the_loss(monkeypatch, prepared):
    """Also if DiffAug's views are prepared, and if the clean view has a loss of its own."""
    torch.manual_seed(0)
    logits = {name: torch.randn(4, 5) for name in ("clean", "augmix1", "augmix2", "diffaug")}
    labels = torch.arange(4)
    _, loss = build_views(options(monkeypatch, "--recipe", "augmix+diffaug", "--jsd-weight", "24"), prepared)
    expected = ViewsLoss(jsd=24)(logits, labels)
    assert expected > ViewsLoss()(logits, labels)
    torch.testing.assert_close(loss(logits, labels), expected)
    soft = F.one_hot(labels, 5).float()
    torch.testing.assert_close(RecipeLoss(loss)(logits, labels, soft), expected)


@pytest.mark.parametrize(
    ("recipe_name", "prepared"),
    [
        ("baseline", False),
        ("diffaug", False),
        ("diffaug", True),
        ("augmix+diffaug", False),
        ("augmix+diffaug", True),
        ("deepaugment", False),
        ("deepaugment+diffaug", False),
        ("deepaugment+diffaug", True),
    ],
)
def test_the_mean_of_the_cross_entropies_reaches_the_loss(monkeypatch, recipe_name, prepared):
    """Each view with a cross-entropy has the same share. AugMix's consistency keeps its weight."""
    labels = torch.arange(4)
    views, loss = build_views(options(monkeypatch, "--recipe", recipe_name, "--mean-loss"), prepared)
    names = [name for name in views.kinds if name != "diffaug" or "diffaug" in recipe_name]
    torch.manual_seed(0)
    logits = {name: torch.randn(4, 5) for name in names}
    with_cross_entropy = [view for name, view in logits.items() if not name.startswith("augmix")]
    assert len(with_cross_entropy) == {"baseline": 1, "deepaugment+diffaug": 3}.get(recipe_name, 2)
    expected = sum(F.cross_entropy(view, labels) for view in with_cross_entropy) / len(with_cross_entropy)
    if "augmix" in recipe_name:
        three = [logits[name] for name in ("clean", "augmix1", "augmix2")]
        expected = expected + 12 * jensen_shannon_divergence(torch.stack(three))
    torch.testing.assert_close(loss(logits, labels), expected)
    soft = F.one_hot(labels, 5).float()
    torch.testing.assert_close(RecipeLoss(loss)(logits, labels, soft), expected)


@pytest.mark.parametrize("mix", [v2.MixUp, v2.CutMix])
def test_diffaug_after_mixing_returns_soft_labels_as_they_are(mix, network):
    images, soft = mix(num_classes=6)(contracts.images(16), torch.arange(4))
    augmented, same = DiffAug(network)(images, soft)
    assert same is soft
    assert not torch.equal(augmented, images)
    made, loss_of = recipe("diffaug", diffaug=DiffAug(network))
    logits = {name: view.flatten(1)[:, :6] for name, view in made(images).items()}
    torch.testing.assert_close(loss_of(logits, soft), sum(F.cross_entropy(view, soft) for view in logits.values()))


@pytest.mark.parametrize("batch_size", [6, 8])
def test_repeats_are_other_draws_of_each_image_on_all_processes(batch_size):
    """Three repeats of 12 images in batches of 6 or 8: with 8, some images have their repeats in two batches."""
    steps = 36 // batch_size * 2
    alone = list(Batches(12, batch_size, steps, seed=0, repeats=3))
    keys = [key for batch in alone for key in batch]
    assert len(set(keys)) == len(keys)
    if batch_size == 6:
        assert sorted(keys[:36]) == [(draw, image) for draw in range(3) for image in range(12)]
        assert all(len({image for _, image in batch}) == 2 for batch in alone)
        assert {image for _, image in alone[0]} != {image for _, image in alone[6]}
    for batch in alone:
        assert all(a[1] != b[1] for a, b in pairwise(batch))
    assert list(Batches(12, batch_size, steps, seed=0, start=3, repeats=3)) == alone[3:]
    halves = [list(Batches(12, batch_size // 2, steps, seed=0, rank=rank, world=2, repeats=3)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves)] == alone
    assert list(Batches(12, batch_size, steps, seed=0)) == list(Batches(12, batch_size, steps, seed=0, repeats=1))


def test_a_second_stage_at_another_size(monkeypatch, tmp_path):
    """DeiT III's first stage has 192 pixels, its second 224. The position embeddings are resampled."""
    names = ["--model", "timm/test_vit", "--drop-path", "0.1"]
    first = build_classifier(options(monkeypatch, *names, "--size", "32"), ["a", "b"])
    save_classifier(first, tmp_path, "timm/test_vit", classes=["a", "b"], arguments={"size": 32})
    loaded = load_classifier(tmp_path)
    assert loaded.model.pos_embed.shape[1] == 2 * 2 + 1
    assert torch.equal(loaded(IMAGES), first.eval()(IMAGES))
    second = build_classifier(options(monkeypatch, *names, "--size", "64", "--init", str(tmp_path)), ["a", "b"]).eval()
    assert second.model.pos_embed.shape[1] == 4 * 4 + 1
    assert second(F.interpolate(IMAGES, 64)).shape == (2, 2)
    assert torch.equal(second.model.head.weight, first.model.head.weight)
    with pytest.raises(ValueError, match="size must be at most 1024 for this model. Got 4096"):
        build_classifier(options(monkeypatch, *names, "--size", "4096"), ["a", "b"])
    config = (tmp_path / "classifier.json").read_text()
    (tmp_path / "classifier.json").write_text(config.replace('"size": 32', '"size": 5000'))
    with pytest.raises(ValueError, match=r"classifier.json: size must be at most 1024 .* Got 5000"):
        load_classifier(tmp_path)


def test_drop_path_reaches_the_model():
    model = build_with_drop_path("timm/test_vit", 3, False, 0.2)
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert list(model.state_dict()) == list(build_with_drop_path("timm/test_vit", 3, False, 0.0).state_dict())
    with pytest.raises(ValueError, match=r"timm cannot make the model 'timm/no_such' with drop-path=0.2"):
        build_with_drop_path("timm/no_such", 3, False, 0.2)
