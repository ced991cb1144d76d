"""`evaluate`: classifiers from what users call them, data of every kind, the methods' answers, standard errors."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision import models
from torchvision.models._api import WeightsEnum
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.classifiers import NormalizedClassifier, build_model, load_classifier, save_classifier
from diffaug_transforms.images import sample_images
from diffaug_transforms.robustness import DDA, correct, evaluate
from diffaug_transforms.robustness.evaluation import MODES, OpenedClassifier, open_classifier, open_data
from diffaug_transforms.robustness.evaluation.batches import draw_noise
from diffaug_transforms.robustness.evaluation.classifiers import parse_normalize
from diffaug_transforms.robustness.evaluation.plan import in_words
from diffaug_transforms.robustness.evaluation.report import add_summaries, plot_results, result_table
from diffaug_transforms.score import Denoiser
from diffaug_transforms.transforms import AnytimeEnsemble, SelfEnsemble
from diffaug_transforms.transforms.purify import Purify
from tests.conftest import tiny_unet
from tests.hub_server import run_python, serve_hub

for module in ("datasets", "timm"):
    pytest.importorskip(module)

CATS_AND_DOGS = OpenedClassifier(nn.Identity(), classes=("dog", "cat", "horse"))
UNNAMED = OpenedClassifier(nn.Identity())


def write_folder(root: Path, names: Sequence[str], size: int | None = None) -> Path:
    """The sample images of these classes, each in the folder of its class."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        image = sample_images()[name]
        (image if size is None else image.resize((size, size))).save(root / name / "a.png")
    return root


def write_parquet(path: Path, labels: Sequence[Any], feature: Any = None) -> Path:
    import datasets

    images = list(sample_images().values())[: len(labels)]
    features = datasets.Features({"picture": datasets.Image(), "labels": feature or datasets.Value("string")})
    datasets.Dataset.from_dict({"picture": images, "labels": list(labels)}, features=features).to_parquet(path)
    return path


def pick(records: Sequence[dict[str, Any]], metric: str, mode: str, corruption: str = "clean") -> float:
    (found,) = (r["value"] for r in records if (r["metric"], r["mode"], r["corruption"]) == (metric, mode, corruption))
    return found


# Classifiers


def test_embedded_classifiers_and_folders(tmp_path):
    opened = open_classifier("cifar10-diffaug")
    assert (opened.size, opened.classes[3]) == (32, "cat")
    assert opened.fields == {"model": "cifar_resnet-32", "recipe": "diffaug", "seed": 0}
    own = NormalizedClassifier(build_model("cifar_resnet-8", 2), [0.5], [0.25])
    save_classifier(own, tmp_path / "mine", "cifar_resnet-8", classes=["a", "b"])
    opened = open_classifier(tmp_path / "mine")
    assert (opened.size, opened.classes, opened.fields["recipe"]) == (None, ("a", "b"), "baseline")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened.module(images), own.eval()(images))
    other = open_classifier(tmp_path / "mine", normalize=(0.0, 1.0)).module
    assert torch.equal(other(images), own.model(images))


def test_timm_models_from_files_have_the_files_classes_and_any_size(tmp_path):
    import timm

    model = timm.create_model("test_vit", num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    opened = open_classifier(f"timm:test_vit@{tmp_path / 'mine.pth'}", normalize=(0.5, 0.5))
    assert (opened.size, opened.resize, opened.filter) == (160, 168, "bicubic")
    assert opened.fields == {"model": "timm/test_vit", "recipe": "mine", "seed": 0}
    images = torch.rand(2, 3, 160, 160)
    assert torch.allclose(opened.module(images), model(2 * images - 1), atol=1e-5)
    small = open_classifier(f"timm:test_vit@{tmp_path / 'mine.pth'}", size=96)
    assert small.module(torch.rand(2, 3, 96, 96)).shape == (2, 5)


def test_a_timm_repository_of_the_hub(tmp_path):
    import timm
    from safetensors.torch import save_file

    model, repo = timm.create_model("test_resnet", num_classes=3).eval(), tmp_path / "repo"
    repo.mkdir()
    save_file(model.state_dict(), repo / "model.safetensors")
    config = {"input_size": [3, 64, 64], "mean": [0.25] * 3, "std": [0.5] * 3, "crop_pct": 0.5}
    content = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": config}
    (repo / "config.json").write_text(json.dumps(content))
    code = """
import time, torch
time.sleep = lambda seconds: None
from diffaug_transforms.robustness.evaluation import open_classifier
try:
    opened = open_classifier({name!r})
    x = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    print(opened.size, opened.resize, round(opened.module(x).double().abs().sum().item(), 4))
except Exception as error:
    print(type(error).__name__, " ".join(str(error).split()))
"""
    x = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with serve_hub({"me/tiny": repo}) as hub:
        size, resize, total = run_python(code.format(name="me/tiny"), hub.url, tmp_path / "home").split()
        missing = run_python(code.format(name="me/none"), hub.url, tmp_path / "home")
    assert (size, resize) == ("64", "128")
    assert float(total) == pytest.approx(model((x - 0.25) / 0.5).abs().sum().item(), rel=1e-3)
    assert missing.startswith("OSError the weights of me/none cannot be loaded: ")


def test_our_own_repository_of_the_hub(tmp_path):
    """From the Hub, from its cache if the Hub is away, and through the command."""
    own = NormalizedClassifier(build_model("cifar_resnet-8", 8), [0.5], [0.25]).eval()
    arguments = {"recipe": "augmix+diffaug", "seed": 3, "size": 32}
    save_classifier(own, tmp_path / "repo", "cifar_resnet-8", classes=list(sample_images()), arguments=arguments)
    x = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    code = f"""
import torch
from diffaug_transforms.robustness.evaluation import open_classifier
opened = open_classifier("me/own")
x = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
found = torch.load({str(tmp_path / "answer.pt")!r}, weights_only=True)
print(opened.size, len(opened.classes), opened.fields, torch.allclose(opened.module(x), found, atol=1e-5))
"""
    torch.save(own(x), tmp_path / "answer.pt")
    expected = "32 8 {'model': 'cifar_resnet-8', 'recipe': 'augmix+diffaug', 'seed': 3} True"
    for name, image in sample_images().items():
        (tmp_path / "images" / name).mkdir(parents=True)
        image.save(tmp_path / "images" / name / "a.png")
    words = ["evaluate", "me/own", str(tmp_path / "images"), "--modes", "default", "--corruptions", "none"]
    command = f"from diffaug_transforms.cli import main\nmain({[*words, '--output', str(tmp_path / 'out')]!r})"
    home = tmp_path / "home"
    with serve_hub({"me/own": tmp_path / "repo"}) as hub:
        assert run_python(code, hub.url, home) == expected
        assert run_python(command, hub.url, home, CUDA_VISIBLE_DEVICES="").startswith("Wrote ")
    assert run_python(code, hub.url, home, HF_HUB_OFFLINE="1") == expected
    records = json.loads((tmp_path / "out" / "records.json").read_text())["records"]
    assert {(record["model"], record["recipe"]) for record in records} == {("cifar_resnet-8", "augmix+diffaug")}


def test_torchvision_models_have_their_weights_transforms(monkeypatch):
    torch.manual_seed(0)
    state = models.mobilenet_v3_small().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **options: state)
    opened = open_classifier("torchvision:mobilenet_v3_small")
    assert (opened.size, opened.resize, opened.filter) == (224, 256, "bilinear")
    assert opened.module.mean == [0.485, 0.456, 0.406]
    assert opened.fields["model"] == "mobilenet_v3_small"
    assert open_classifier("mobilenet_v3_small").fields == opened.fields


def export(path: Path, model: nn.Module, batch: bool = True, size: int = 32) -> Path:
    dynamic = ({0: torch.export.Dim("batch")},) if batch else None
    torch.export.save(torch.export.export(model.eval(), (torch.rand(4, 3, size, size),), dynamic_shapes=dynamic), path)
    return path


def test_exported_programs(tmp_path):
    model = build_model("cifar_resnet-8", 10).eval()
    path = export(tmp_path / "mine.pt2", model)
    opened = open_classifier(path, normalize=parse_normalize("0.5/0.25"))
    images = torch.rand(3, 3, 32, 32)
    assert torch.allclose(opened.module(images), model((images - 0.5) / 0.25), atol=1e-5)
    assert (opened.size, opened.fields["model"]) == (32, "mine")
    with pytest.raises(ValueError, match="normalize must be given for an exported program: none if .* Got none for"):
        open_classifier(path)
    with pytest.raises(ValueError, match=r"must take any number of images. Got a program for exactly 4: export it"):
        open_classifier(export(tmp_path / "four.pt2", model, batch=False), normalize=(0.0, 1.0))
    options: dict[str, Any] = {"normalize": (0.5, 0.5), "modes": ["default"], "corruptions": ()}
    assert evaluate(path, random_data(side=32), **options)[-1]["n"] == 6
    with pytest.raises(ValueError, match="classifier must take images of 40x40 pixels, or size be given: Guard failed"):
        evaluate(path, random_data(side=40), size=40, **options)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OSError, match="is no whole exported program"):
        open_classifier(path, normalize=(0.0, 1.0))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("cifar10-basline", ValueError, "Got 'cifar10-basline'. Did you mean 'cifar10-baseline'"),
        ("resnet51", ValueError, "Did you mean 'resnet50'"),
        ("timm:resnet51", ValueError, "Did you mean 'timm:resnet51q'"),
        ("torchvision:resnet51", ValueError, "Did you mean 'torchvision:resnet50'"),
        ("resnet50@nowhere.pth", OSError, "there is no file nowhere.pth, which resnet50@nowhere.pth names"),
        ("nowhere.pt2", OSError, "there is no file nowhere.pt2"),
        (3, TypeError, "classifier must be a str or Path. Got 3"),
    ],
)
def test_unknown_classifiers(spec, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        open_classifier(spec)


def test_normalize_as_text():
    assert parse_normalize("none") == (0.0, 1.0)
    assert parse_normalize("imagenet")[0] == (0.485, 0.456, 0.406)
    assert parse_normalize("0.5,0.5,0.4/0.25") == ([0.5, 0.5, 0.4], [0.25])
    for text in ("0.5", "a/b", "0.5/0.5/0.5", ""):
        with pytest.raises(ValueError, match="normalize must be none, imagenet, or MEAN/STD"):
            parse_normalize(text)
    with pytest.raises(ValueError, match="std must be finite and above 0"):
        parse_normalize("0.5/0")


# Data


def test_folders_of_classes_are_labelled_by_name(tmp_path):
    data = open_data(write_folder(tmp_path / "pets", ["cat", "dog"]), CATS_AND_DOGS)
    assert [target for _, target in data.clean] == [1, 0]
    assert (data.name, data.num_classes, len(data.corruptions)) == ("pets", None, 15)
    write_folder(tmp_path / "split" / "val", ["horse"])
    write_folder(tmp_path / "split" / "train", ["cat", "dog"])
    assert [target for _, target in open_data(tmp_path / "split", CATS_AND_DOGS).clean] == [2]
    assert len(open_data(tmp_path / "split", CATS_AND_DOGS, split="train").clean) == 2
    unnamed = open_data(tmp_path / "pets", UNNAMED)
    assert ([target for _, target in unnamed.clean], unnamed.num_classes) == ([0, 1], 2)


def test_images_become_the_classifiers_size(tmp_path):
    folder = write_folder(write_folder(tmp_path, ["cat"], size=80), ["dog"], size=50)
    sized = OpenedClassifier(nn.Identity(), size=40, resize=50)
    assert {image.shape for image, _ in open_data(folder, sized).clean} == {(3, 40, 40)}
    assert {image.shape for image, _ in open_data(folder, sized, size=20).clean} == {(3, 20, 20)}
    data = open_data(folder, UNNAMED)
    with pytest.raises(ValueError, match="all images must have one size, or size must be given. Got 80x80 and 50x50"):
        list(data.clean)


def test_rows_with_names_and_numbers(tmp_path):
    import datasets

    named = open_data(write_parquet(tmp_path / "a.parquet", ["horse", "dog"]), CATS_AND_DOGS)
    assert [target for _, target in named.clean] == [2, 0]
    classes = datasets.ClassLabel(names=["cat", "dog"])
    typed = open_data(write_parquet(tmp_path / "b.parquet", [0, 1], classes), CATS_AND_DOGS)
    assert [target for _, target in typed.clean] == [1, 0]
    plain = open_data(write_parquet(tmp_path / "c.parquet", [5, 7], datasets.Value("int64")), CATS_AND_DOGS)
    assert [target for _, target in plain.clean] == [5, 7]


def test_constants_are_those_of_the_images_size(tmp_path):
    pytest.importorskip("cv2")
    folder = write_folder(tmp_path, ["cat"], size=64)
    for size, constants in ((32, "cifar10-c"), (64, "tiny-imagenet-c"), (113, "imagenet-c")):
        data = open_data(folder, UNNAMED, size=size)
        part: Any = data.part("fog", 3)
        assert (part.corruption_set, data.part("clean", 0)) == (constants, data.clean)


def test_published_sets_are_told_by_their_layout(tmp_path):
    import numpy as np

    from diffaug_transforms.robustness.datasets import folder_targets

    np.save(tmp_path / "labels.npy", np.arange(5))
    np.save(tmp_path / "fog.npy", np.full((5, 32, 32, 3), 7, np.uint8))
    cifar = open_data(tmp_path, open_classifier("cifar10-baseline"))
    assert (cifar.name, cifar.clean, cifar.corruptions, cifar.num_classes) == ("cifar10-c", None, ("fog",), 10)
    assert cifar.part("fog", 2)[0][1] == 1
    large = open_data(tmp_path, OpenedClassifier(nn.Identity(), size=48))
    assert large.part("fog", 2)[0][0].shape == (3, 48, 48)
    for wnid in folder_targets("imagenet-r"):
        (tmp_path / "r" / wnid).mkdir(parents=True)
        sample_images()["cat"].save(tmp_path / "r" / wnid / "a.jpg")
    renditions = open_data(tmp_path / "r", OpenedClassifier(nn.Identity(), size=32))
    assert (renditions.name, len(renditions.candidates)) == ("imagenet-r", 200)
    some = tmp_path / "val" / "n01443537"
    some.mkdir(parents=True)
    sample_images()["cat"].save(some / "a.jpg")
    assert open_data(some.parent, UNNAMED).name == "imagenet"
    assert open_data(some.parent, UNNAMED, dataset="imagenet-sketch").name == "imagenet-sketch"
    own = open_data(some.parent, OpenedClassifier(nn.Identity(), classes=("n01443537",)))
    assert (own.name, own.clean[0][1]) == ("val", 0)
    deep = tmp_path / "c" / "weather" / "fog" / "3" / "n01443537"
    deep.mkdir(parents=True)
    sample_images()["cat"].resize((224, 224)).save(deep / "a.jpg")
    corrupted = open_data(tmp_path / "c", UNNAMED)
    assert (corrupted.corruptions, corrupted.part("fog", 3)[0][0].shape) == (("fog",), (3, 224, 224))


def test_unfit_data(tmp_path):
    empty, flat = tmp_path / "empty", tmp_path / "flat"
    (empty / "cat").mkdir(parents=True)
    flat.mkdir()
    birds = write_folder(tmp_path / "birds", ["bird", "cat"])
    split = write_folder(tmp_path / "split" / "train", ["cat"]).parent
    unlabelled = write_parquet(tmp_path / "none.parquet", [None, None])
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ("nowhere", {}, OSError, "DATA must be a folder with a folder of images for each class.*Got 'nowhere'"),
        (flat, {}, ValueError, "must hold a folder of images for each class. Got no folder"),
        (empty, {}, OSError, "there are no images in the folders of .*empty: cat"),
        (birds, {}, ValueError, "classes that the classifier knows: dog, cat, horse. Got also bird"),
        (split, {}, ValueError, "must hold a test split: test, validation, val, valid. Got train"),
        (split, {"split": "dev"}, ValueError, "split must be a folder of .*: train. Got 'dev'"),
        (unlabelled, {}, ValueError, "must have a column label with classes. Got picture, labels"),
        (birds, {"dataset": "imagenet-x"}, ValueError, "dataset must be one of cifar10-c, imagenet"),
        (3, {}, TypeError, "dataset must have a length and items by index. Got 3"),
    ]
    for data, options, error, message in cases:
        with pytest.raises(error, match=message):
            open_data(data, CATS_AND_DOGS, **options)


# evaluate


@pytest.fixture
def small(schedule) -> ScoreNetwork:
    return ScoreNetwork(tiny_unet(), schedule)


def random_data(number: int = 6, side: int = 16) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (number, 3, side, side), dtype=torch.uint8, generator=generator)
    return TensorDataset(images, torch.arange(number) % 5)


class Linear(nn.Module):
    """Five classes, sure enough that few views decide."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weight = nn.Parameter(4 * torch.randn(5, 3 * 16 * 16) / 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1) - 0.5) @ self.weight.T


def test_answers_are_those_of_the_package(small):
    """Accuracy, calls and gains of each method, against the modules, on the same noise."""
    data, classifier, steps = random_data(), Linear(), [0, 20, 20, 60, 150]
    options: dict[str, Any] = {"network": small, "timesteps": steps, "corruptions": (), "batch_size": 4}
    records = evaluate(classifier, data, modes=list(MODES), seed=3, **options)
    images, targets = data.tensors[0].float() / 255, data.tensors[1]
    noise = draw_noise(range(6), 4, (3, 16, 16), seed=3)
    ensemble = DiffAugEnsemble(classifier, small, timesteps=steps)

    def accuracy(log_p: torch.Tensor) -> float:
        return round(100 * correct(log_p, targets).float().mean().item(), 3)

    with torch.no_grad():
        assert pick(records, "accuracy", "default") == accuracy(classifier(images))
        assert pick(records, "accuracy", "de") == accuracy(ensemble(images, noise))
        anytime = AnytimeEnsemble(ensemble).predict(images, noise)
    assert pick(records, "accuracy", "anytime") == accuracy(anytime.log_probabilities)
    calls = anytime.network_calls.float().mean().item()
    assert pick(records, "network_calls", "anytime") == pytest.approx(calls, abs=1e-3)
    assert pick(records, "network_calls", "de") == 4
    assert pick(records, "network_calls", "default") == 0
    assert pick(records, "network_calls", "dda") == len(DDA(small).timesteps) - 1
    gain = pick(records, "accuracy", "dda-se") - pick(records, "accuracy", "default")
    assert pick(records, "gain", "dda-se") == pytest.approx(gain, abs=1e-3)
    assert all("right" not in record for record in records)
    again = evaluate(classifier, data, modes=["dda", "anytime"], seed=3, **{**options, "batch_size": 3})
    for mode in ("dda", "anytime"):
        assert pick(again, "accuracy", mode) == pick(records, "accuracy", mode)


def test_purify_is_the_packages_and_its_calls_are_counted(small):
    """Half of the images are flat. They come back as they are, without a call, and are classified only once."""
    data, classifier = random_data(), Linear()
    data.tensors[0][::2] = 90
    judged: list[int] = []
    classifier.register_forward_pre_hook(lambda module, inputs: judged.append(len(inputs[0])))
    records = evaluate(classifier, data, modes=["purify", "purify-se"], network=small, corruptions=())
    assert judged == [1, 6, 3]  # a trial, all images, and those that Purify changed
    with torch.no_grad():
        purify, images = Purify(small), data.tensors[0] / 255
        alone, both = classifier(purify(images)), SelfEnsemble(classifier, purify)(images)
    for mode, logits in (("purify", alone), ("purify-se", both)):
        expected = round(100 * correct(logits, data.tensors[1]).float().mean().item(), 3)
        assert pick(records, "accuracy", mode) == expected
        assert pick(records, "network_calls", mode) == 0.5


def test_the_users_module_stays_as_it_is():
    """Batch normalisation and dropout are in eval mode while they are judged."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(), nn.Linear(768, 5)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    options: dict[str, Any] = {"modes": ["default"], "corruptions": ()}
    assert evaluate(module, random_data(), **options) == evaluate(module, random_data(), **options)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_library_models_run_in_channels_last(monkeypatch):
    """Users' own code and exported programs may need the layout that they have."""
    layouts: list[bool] = []
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()

    def record(layer: nn.Module, *_: Any) -> None:
        layouts.append(layer.weight.is_contiguous(memory_format=torch.channels_last))

    model[0].register_forward_hook(record)
    options: dict[str, Any] = {"modes": ["default"], "corruptions": ()}
    own = evaluate(model, random_data(), **options)
    assert set(layouts) == {False}
    layouts.clear()
    opened = OpenedClassifier(copy.deepcopy(model), {"model": "Sequential"})
    monkeypatch.setattr(sys.modules[evaluate.__module__], "open_classifier", lambda *_, **__: opened)
    by_name = evaluate("a_name", random_data(), **options)
    assert set(layouts) == {True}
    assert pick(by_name, "accuracy", "default") == pick(own, "accuracy", "default")


def test_amp_is_bfloat16_autocast():
    """A convolution gets float32 images and computes in bfloat16."""
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    module[0].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    records = evaluate(module, random_data(), modes=["default"], corruptions=(), amp=True)
    assert seen == [(torch.float32, torch.bfloat16)] * 2  # a trial and all images
    images, targets = random_data().tensors
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        right = correct(module(images / 255).float(), targets)
    assert pick(records, "accuracy", "default") == round(100 * right.float().mean().item(), 3)


def test_a_classifier_alone_needs_no_network():
    records = evaluate("cifar10-baseline", random_data(side=32), modes=["default"], corruptions=())
    assert {record["mode"] for record in records} == {"default"}
    assert all("network" not in record for record in records)


def test_finished_parts_are_used_for_the_same_inputs_only(tmp_path, small, capsys):
    pytest.importorskip("cv2")
    data, classifier = random_data(), Linear()
    options: dict[str, Any] = {"network": small, "corruptions": ["fog"], "modes": ["de"], "timesteps": [20]}
    options |= {"output": tmp_path, "progress": True}

    def made(classifier: nn.Module, data: Any, **changed: Any) -> str:
        evaluate(classifier, data, **{**options, **changed})
        return capsys.readouterr().out.splitlines()[0]

    everything = "12 images of 16x16 pixels in 2 parts"
    assert made(classifier, data) == everything
    assert made(classifier, data) == "All 2 parts are kept from an earlier run"
    assert made(classifier, data, corruptions=["fog", "snow"]) == (
        "6 images of 16x16 pixels in 1 part, 2 of 3 parts are kept from an earlier run"
    )
    assert made(classifier, data, timesteps=[30]) == everything
    assert made(classifier, data, timesteps=[30], seed=1) == everything
    assert made(classifier, data, timesteps=[30], seed=1, amp=True) == everything
    with torch.no_grad():
        classifier.weight[0, 0] += 1
    assert made(classifier, data, timesteps=[30], seed=1) == everything
    data.tensors[0][0, 0, 0, 0] ^= 1
    assert made(classifier, data, timesteps=[30], seed=1) == everything


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modes": ["de", "dds"]}, ValueError, "mode must be one of default, de, anytime.* Got 'dds'"),
        ({"modes": "de"}, TypeError, "modes must be a list of names. Got 'de'"),
        ({"modes": []}, ValueError, "modes must be at least one of default.* Got none"),
        ({"corruptions": ["rain"]}, ValueError, "corruption must be one of gaussian_noise.* Got 'rain'"),
        ({"severities": [6]}, ValueError, "severity must be in 1...5. Got 6"),
        ({"severities": 3}, TypeError, "severities must be a list of integers, such as .* Got 3"),
        ({"device": "moon"}, ValueError, "device must be a device of this machine, such as cpu or cuda. Got 'moon'"),
        ({"output": 5}, TypeError, "output must be a path. Got 5"),
        ({"dataset": "cifar10-c"}, ValueError, "dataset and split are for data by name. Got 'cifar10-c' and None"),
        ({"severities": []}, ValueError, "severities must be in 1...5, at least one. Got none"),
        ({"amp": "bfloat16"}, TypeError, "amp must be True or False. Got 'bfloat16'"),
        ({"limit": 0}, ValueError, "limit must be at least 1. Got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1. Got 0"),
        ({"normalize": (0.5, 0.5)}, ValueError, "normalize is for classifiers by name"),
        ({"size": 20}, ValueError, "classifier must take images of 20x20 pixels, or size be given"),
        ({"timesteps": [1000]}, ValueError, "1000"),
    ],
)
def test_bad_arguments(small, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(Linear(), random_data(), **{"network": small, "corruptions": (), **options})


def test_unfit_images_and_classes(tmp_path, small):
    options: dict[str, Any] = {"network": small, "corruptions": ()}
    with pytest.raises(ValueError, match="data must hold at least one image. Got none"):
        evaluate(Linear(), TensorDataset(torch.zeros(0, 3, 16, 16, dtype=torch.uint8), torch.zeros(0)), **options)
    with pytest.raises(TypeError, match="data must hold pairs of an image and a class. Got something else"):
        evaluate(Linear(), [1, 2], **options)
    with pytest.raises(ValueError, match=r"must return logits \(B, K\). Got Tensor of shape \(1, 3, 16, 16\)"):
        evaluate(nn.Identity(), random_data(), **options)
    with pytest.raises(ValueError, match=r"images must be uint8 \(3, H, W\). Got torch.float32 \(3, 16, 16\)"):
        evaluate(Linear(), TensorDataset(torch.rand(2, 3, 16, 16), torch.zeros(2)), **options)
    with pytest.raises(ValueError, match="targets must be below the 5 classes of the logits. Got 5"):
        evaluate(Linear(), TensorDataset(random_data(2).tensors[0], torch.tensor([1, 5])), **options)
    folder = write_folder(tmp_path, ["cat", "dog"], size=16)
    with pytest.raises(ValueError, match="classifier must have 2 outputs, one for each class of .* Got 5"):
        evaluate(Linear(), folder, **options)


def test_the_network_is_that_for_the_images_size(monkeypatch):
    """Small images get "cifar10", larger ones "photos"."""
    from diffaug_transforms.score import denoiser

    asked = []

    def load(name: str) -> ScoreNetwork:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(denoiser, "load_score_network", load)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    for side in (48, 49):
        with pytest.raises(OSError, match="no network"):
            evaluate(pool, random_data(2, side), corruptions=())
    assert asked == ["cifar10", "photos"]


def test_errors_and_gains_by_hand():
    """Two parts of four images: each image's own mean and difference."""

    def record(mode: str, corruption: str, right: list[int]) -> dict[str, Any]:
        common = {"model": "m", "recipe": "baseline", "seed": 0, "dataset": "d", "timesteps": "", "n": 4}
        part = {"corruption": corruption, "severity": 5, "mode": mode, "metric": "accuracy"}
        return {**common, **part, "value": 25.0 * sum(right), "right": right}

    answers = {("default", "fog"): [1, 0, 0, 1], ("de", "fog"): [1, 1, 0, 1]}
    answers |= {("default", "snow"): [1, 0, 0, 0], ("de", "snow"): [0, 1, 1, 0]}
    records = add_summaries([record(mode, corruption, right) for (mode, corruption), right in answers.items()])
    (fog,) = (r for r in records if (r["mode"], r["corruption"], r["metric"]) == ("de", "fog", "accuracy"))
    assert (fog["value"], fog["standard_error"]) == (75, 25)  # sqrt(0.75 * 0.25 / 3)
    assert pick(records, "gain", "de", "fog") == 25
    assert pick(records, "accuracy", "de", "all") == 62.5
    (gain,) = (r for r in records if r["metric"] == "gain" and r["corruption"] == "all")
    # The images' differences of means over both parts: 0.5 - 1, 1 - 0, 0.5 - 0, 0.5 - 0.5.
    differences = torch.tensor([-50.0, 100.0, 50.0, 0.0])
    assert (gain["value"], gain["standard_error"]) == (25, pytest.approx(differences.std().item() / 2, abs=1e-3))
    calls = [{**records[0], "mode": m, "metric": "network_calls", "value": c} for m, c in (("default", 0), ("de", 9))]
    table = result_table([*calls, *records])
    assert "| de | 9 | 62.5 ± 12.5 | +25.0 ± 32.3 |" in table
    assert "| fog 5 | 50.0 ± 28.9 | 75.0 ± 25.0 |" in table


def test_one_part_beside_the_clean_one_has_its_gain_in_the_table(small):
    pytest.importorskip("cv2")
    records = evaluate(Linear(), random_data(), network=small, corruptions=["fog"], timesteps=[20], modes=["de"])
    assert result_table(records).splitlines()[2] == "|  | calls an image | clean | gain | fog 5 | gain |"
    assert result_table(records).count("\n\n") == 1


def test_a_picture(tmp_path, small):
    pytest.importorskip("matplotlib")
    records = evaluate(Linear(), random_data(), network=small, corruptions=(), timesteps=[0, 20])
    plot_results(records, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_times_in_words():
    assert [in_words(seconds) for seconds in (0.1, 89, 600, 7200)] == ["1 s", "89 s", "10 min", "2.0 h"]


def test_embedded_classifiers_know_the_samples_better_than_chance():
    """By name, through the whole path: 8 sample images, at least half of them right."""
    classes = load_classifier("cifar10-baseline").classes
    images = torch.stack([F.pil_to_tensor(image) for image in sample_images().values()])
    targets = torch.tensor([classes.index(name) for name in sample_images()])
    records = evaluate("cifar10-baseline", TensorDataset(images, targets), modes=["default"], corruptions=())
    assert pick(records, "accuracy", "default") >= 50


@pytest.mark.parametrize(("side", "guide"), [(32, (2, 2)), (224, (6, 4))])
def test_dda_has_a_guide_that_fits_the_size(side, guide, small, monkeypatch):
    module = sys.modules["diffaug_transforms.robustness.evaluation.evaluate"]
    found: list[DDA] = []
    monkeypatch.setattr(module, "dda_views", lambda dda, *_, **__: found.append(dda))
    module.make_dda(Denoiser(small), (3, side, side), None, 0)
    assert [(dda.guidance_scale, dda.downscale) for dda in found] == [guide]
