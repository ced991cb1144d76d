"""`diffaug sample`: every pixel of the picture against steps written out, and its errors for bad input."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import ScoreNetwork, cli, list_score_networks, load_score_network
from diffaug_transforms.cli.sample import choose_classes, choose_size
from diffaug_transforms.figures import draw_grid
from diffaug_transforms.guidance import DenoiseAugmentedClassifier as Augmented
from diffaug_transforms.guidance import NoisyClassifier, classifier_guide, load_guidance_classifier
from diffaug_transforms.score import NoiseSchedule, sampling, to_unit
from diffaug_transforms.score.timesteps import PAPER_SIZE
from tests.conftest import tiny_unet
from tests.exploding_oracle import EXPLODING
from tests.guidance.guidance_encoders import tiny_encoder

ANIMALS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
SEEDS = ["seed 0", "seed 1"]


@pytest.fixture(scope="module")
def folder(schedule: NoiseSchedule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks: without classes, with five, with five or seven and a null class; and classifiers."""
    folder = tmp_path_factory.mktemp("sample")
    networks = {
        "plain": ScoreNetwork(tiny_unet(), schedule),
        "conditional": ScoreNetwork(tiny_unet(5), schedule),
        "null": ScoreNetwork(tiny_unet(6), schedule, null_class=5),
        "seven": ScoreNetwork(tiny_unet(8), schedule, null_class=7),
        "cosine": ScoreNetwork(tiny_unet(), NoiseSchedule.named("cosine")),
        "exploding": ScoreNetwork(tiny_unet(), EXPLODING),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    NoisyClassifier(tiny_encoder(), classes=ANIMALS).save_pretrained(folder / "classifier")
    Augmented(tiny_encoder(0.2), folder / "plain", classes=ANIMALS).save_pretrained(folder / "augmented")
    NoisyClassifier(tiny_encoder(num_classes=10), classes=list("abcdefghij")).save_pretrained(folder / "ten")
    return folder


def picture_of(folder: Path, *arguments: str, network: str = "null") -> Tensor:
    """The picture that the command writes, uint8 (3, H, W). By default over two steps and two seeds."""
    options = ["--network", str(folder / network), "--steps", "2", "--per-class", "2"]
    assert cli.main(["sample", str(folder / "out.png"), *options, *arguments]) == 0
    with PIL.Image.open(folder / "out.png") as file:
        return F.pil_to_tensor(file)


def noise_of(*seeds: int) -> list[Tensor]:
    """The start and two more draws, each (seeds, 3, 16, 16). Every seed has its own stream."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = [torch.stack([torch.randn(3, 16, 16, generator=g) for g in generators]) for _ in range(3)]
    return [NoiseSchedule.named("linear").noise_scale[-1] * draws[0], *draws[1:]]


def assert_same_picture(picture: Tensor, rows: list[Tensor], labels: list[str]) -> None:
    """Equal pixel by pixel, headings and labels included, up to the last bit of rounding."""
    images = [to_unit(row).clamp(0, 1) for row in rows]
    expected = F.pil_to_tensor(draw_grid(images, SEEDS, labels))
    assert picture.shape == expected.shape
    assert (picture.int() - expected.int()).abs().max() <= 1
    assert images[0].std() > 0.05  # an empty picture would compare nothing


@pytest.mark.parametrize("scale", [0, 1, 3])
def test_classifier_free_guidance_by_hand(folder, schedule, scale):
    """(1 - scale) unconditional + scale conditional, in two DDIM steps over t = 999 and 0."""
    network = load_score_network(folder / "null")
    rows = []
    for label in (4, 1):
        x_t = noise_of(0, 1)[0]
        for t in (999, 0):
            when = torch.full((2,), t)
            eps = [network.eps(x_t, when, labels) for labels in (None, torch.full((2,), label))]
            assert (eps[1] - eps[0]).abs().max() > 0.01
            mixed = (1 - scale) * eps[0] + scale * eps[1]
            a, b = schedule.signal_scale[t], schedule.noise_scale[t]
            pred_x0 = ((x_t - b * mixed) / a).clamp(-1, 1)
            x_t = schedule.signal_scale[0] * pred_x0 + schedule.noise_scale[0] * (x_t - a * pred_x0) / b
        rows.append(pred_x0)
    assert_same_picture(picture_of(folder, "--classes", "4,1", "--scale", str(scale)), rows, ["4", "1"])


@pytest.mark.parametrize(("method", "labelled"), [("ancestral", True), ("ancestral", False), ("ddim", False)])
def test_classifier_guidance(folder, method, labelled):
    """The loop of score/sampling.py with the guide. The network gets the labels unless --unconditional."""
    network = load_score_network(folder / "seven")
    rows = []
    for label in (3, 6):
        start, *noise = noise_of(0, 1)
        labels = torch.full((2,), label)
        guide = classifier_guide(tiny_encoder(), labels, 30.0, schedule=network.schedule)
        options = {"method": method, "labels": labels if labelled else None, "noise": noise}
        rows.append(sampling.sample(network, start, (0, 500, 999), guide=guide, **options))
    unguided = sampling.sample(network, start, (0, 500, 999), **options)
    assert (rows[1] - unguided).abs().max() > 0.05
    arguments = ["--classifier", str(folder / "classifier"), "--classes", "Dog,6", "--scale", "30", "--steps", "3"]
    arguments += ["--method", method, *([] if labelled else ["--unconditional"])]
    assert_same_picture(picture_of(folder, *arguments, network="seven"), rows, ["dog", "gnu"])


def test_scale_0_of_a_classifier_is_no_guidance(folder):
    classifier = ["--classifier", str(folder / "classifier"), "--classes", "ant", "--unconditional"]
    guided = picture_of(folder, *classifier, "--scale", "0")
    plain = picture_of(folder, "--unconditional")
    assert torch.equal(guided[:, 28:, 84:], plain[:, 28:, 84:])
    assert not torch.equal(guided, plain)  # the labels, "ant" and "no class"


def test_denoise_augmented_classifier(folder, network):
    """Its folder names its network. It may get another network that has the same schedule."""
    options = ["--classifier", str(folder / "augmented"), "--classes", "fox", "--scale", "5"]
    picture = picture_of(folder, *options, network="plain")
    guide = classifier_guide(load_guidance_classifier(folder / "augmented"), [5, 5], 5.0, schedule=network.schedule)
    x_0 = sampling.sample(network, noise_of(0, 1)[0], (0, 999), method="ddim", guide=guide)
    assert_same_picture(picture, [x_0], ["fox"])
    other = picture_of(folder, *options, "--classifier-network", str(folder / "null"), network="plain")
    assert (other.int() - picture.int()).abs().max() > 5


def test_networks_alone(folder, network):
    """Without classes. A variance-exploding network starts at its largest sigma."""
    start = noise_of(0, 1)[0]
    unit = start / NoiseSchedule.named("linear").noise_scale[-1]
    networks = {"plain": (network, start), "exploding": (ScoreNetwork(tiny_unet(), EXPLODING), 100 * unit)}
    for name, (alone, x_t) in networks.items():
        x_0 = sampling.sample(alone, x_t, (0, 999), method="ddim")
        assert_same_picture(picture_of(folder, network=name), [x_0], ["no class"])


def test_images_depend_on_their_class_and_seed_alone(folder):
    """Same seeds, same bytes. Other classes, images and batches beside them change nothing."""
    options = ["--method", "ddim", "--eta", "1"]
    picture = picture_of(folder, *options)
    assert picture.shape == (3, 28 + 5 * 100, 84 + 2 * 100)
    assert torch.equal(picture_of(folder, *options), picture)
    alone = picture_of(folder, *options, "--classes", "2", "--per-class", "1", "--seed", "1")
    cell = picture[:, 28 + 200 : 28 + 296, 184 : 184 + 96]
    assert (alone[:, 28:124, 84:180].int() - cell.int()).abs().max() <= 1
    assert (picture_of(folder, *options, "--batch-size", "3").int() - picture.int()).abs().max() <= 1
    assert not torch.equal(alone[:, 28:124, 84:180], picture[:, 228:324, 84:180])  # seed 0


def test_the_embedded_networks_classes_have_names(tmp_path, capsys):
    output = tmp_path / "new" / "cats.jpg"
    assert cli.main(["sample", str(output), "--classes", "cat, 5", "--per-class", "1", "--steps", "2"]) == 0
    with PIL.Image.open(output) as picture:
        assert picture.size == (84 + 100, 28 + 2 * 100)
    assert capsys.readouterr().out.startswith("2 images in 2 steps, ")


def test_a_size_for_a_network_of_any_size(tmp_path, network):
    output = tmp_path / "out.png"
    options = ["--network", "photos", "--size", "32", "--steps", "2", "--per-class", "1"]
    assert cli.main(["sample", str(output), *options]) == 0
    assert output.exists()
    photos = load_score_network("photos")
    assert [choose_size(size, photos) for size in (None, 32)] == [PAPER_SIZE, 32]
    assert [choose_size(size, network) for size in (None, 16)] == [16, 16]


def test_choose_classes():
    names = list_score_networks()["cifar10"].class_names
    assert choose_classes(None, names) == list(range(10))
    assert choose_classes(None, [str(k) for k in range(1000)]) == list(range(10))
    assert choose_classes("truck,CAT,0", names) == [9, 3, 0]
    assert choose_classes("1", ["one", "1", "0"]) == [1]  # names before numbers
    assert choose_classes("0", ["one", "1", "0"]) == [2]
    assert choose_classes(None, []) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "cifar10", "--classes", "cta"], "frog, horse, ship, truck. Got 'cta'. Did you mean 'cat'?"),
        (["--classes", "4,5"], "classes must be names or numbers in 0...4: 0, 1, 2, 3, 4. Got '5'."),
        (["--size", "32"], "--size goes with a network of any size, here it must be 16. Got 32"),
        (["--network", "photos", "--size", "100"], "--size must be a multiple of 8 for this network. Got 100"),
        (["--size", "0"], "--size must be at least 1. Got 0"),
        (["--unconditional", "--classes", "cat"], "--classes needs --classifier, or labels given to the network."),
        (["--unconditional", "--scale", "2"], "--scale needs --classifier, or labels given to the network. Got 2.0"),
        (["--scale", "nan"], "--scale must be finite. Got nan"),
        (["--per-class", "0"], "--per-class must be at least 1. Got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1. Got 0"),
        (["--steps", "1001"], "num_steps must be in 2...1000. Got 1001"),
        (["--eta", "2"], "eta must be in [0, 1]. Got 2.0"),
        (["--eta", "1", "--method", "ancestral"], "--eta goes with --method ddim. Got 1.0"),
        (["--openai-flags", "x"], "--openai-flags goes with --classifier. Got x"),
        (["--classifier", "missing"], "there is no classifier at missing"),
        (["--network", "plain", "--scale", "1"], "--scale needs --classifier, or labels given to the network. Got 1.0"),
        (["--network", "conditional", "--scale", "2"], "needs --classifier, or a network with a null class"),
        (["--network", "conditional", "--unconditional"], "needs labels in 0...4: it has no null class"),
        (["--classifier", "classifier"], "if they differ, pass --unconditional. Got 5 and 7 classes"),
        (["--network", "cifar10", "--classifier", "ten"], "Got airplane, automobile, bird, cat, deer, dog, frog, "),
        (["--network", "cosine", "--classifier", "augmented"], "--network must have the classifier's network's Noise"),
        (["--network", "cifar10", "--classifier", "classifier", "--unconditional"], "16x16 pixels. Got 32x32"),
    ],
)
def test_errors_are_one_line(arguments, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    output = tmp_path / "out.png"
    assert cli.main(["sample", str(output), "--network", "null", "--steps", "2", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffaug: ")]
    assert len(lines) == 1
    assert lines[0].startswith("diffaug: error: ")
    assert message in lines[0]
    assert not output.exists()


@pytest.mark.parametrize("output", ["out", "out.txt", "out.psd"])
def test_the_outputs_name_is_checked_first(output, capsys):
    assert cli.main(["sample", output, "--network", "not looked at"]) == 2
    assert f"OUTPUT must be a picture's file name, such as out.png. Got {output}\n" in capsys.readouterr().err
