"""What the benchmarks share: kept results, data sets, classifiers, timing."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.transforms.v2 import functional as F

from benchmarks.harness import options
from benchmarks.harness.classifiers import open_classifier, open_classifiers
from benchmarks.harness.data import open_set
from benchmarks.harness.options import script_parser
from benchmarks.harness.pictures import draw_rows, stretch
from benchmarks.harness.records import read_records, summary
from benchmarks.harness.timing import count_calls, peak_bytes, ratio, several, time_interleaved
from diffaug_transforms import DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.images import sample_images
from diffaug_transforms.robustness import DDA, candidate_classes, corrupt, random_subset
from diffaug_transforms.robustness.evaluation.answers import entropy, log_probabilities
from diffaug_transforms.robustness.evaluation.batches import batches, draw_noise, places_in_full
from diffaug_transforms.robustness.evaluation.modes import centre
from diffaug_transforms.robustness.evaluation.records import kept
from diffaug_transforms.robustness.evaluation.sets import HubImages, center_crop
from diffaug_transforms.score import Denoiser

from .conftest import CLASSES, write_classifier, write_dataset

CPU = torch.device("cpu")


def test_committed_results_are_tidy():
    for path in Path("benchmarks/results").glob("*.json"):
        records = read_records(path.stem)
        lines = path.read_text().splitlines()
        noted = sum(line.startswith(' "note": ') for line in lines)  # what was done to the records afterwards
        assert len(lines) == len(records) + 8 + noted
        assert all({"benchmark", "metric", "value"} <= set(r) for r in records)


def test_classifiers_are_named_by_all_that_makes_their_recipe(tmp_path):
    made = {
        "plain": {},
        "small": {"network": "hub/small"},
        "matched": {"timesteps": [145, 259]},
        "synth": {"extra_data": "synthetic", "network": "cifar10"},
        "half": {"p": 0.5},
        "consistent": {"jsd_weight": 24.0},
        "averaged": {"mean_loss": True},
        "again": {},
    }
    for name, arguments in made.items():
        config = write_classifier(tmp_path / name, "diffaug") / "classifier.json"
        metadata = json.loads(config.read_text())
        metadata["arguments"] |= arguments
        config.write_text(json.dumps(metadata))
    *different, again = (str(tmp_path / name) for name in made)
    _, fields = open_classifiers(different, CPU)
    recipes = [field["recipe"] for field in fields.values()]
    assert recipes == [
        "diffaug",
        "diffaug@small",
        "diffaug, t=145, t=259",
        "diffaug+synth",
        "diffaug, p=0.5",
        "diffaug, jsd=24",
        "diffaug, mean loss",
    ]
    with pytest.raises(ValueError, match=r"must differ in model, recipe or seed. .*plain and .*again are both"):
        open_classifiers([*different, again], CPU)


def test_results_are_kept_by_their_settings(tmp_path):
    made = []

    def make() -> int:
        made.append(1)
        return len(made)

    path = tmp_path / "folder" / "a.pt"
    assert kept(path, {"seed": 0}, make, write=False) == 1
    assert [kept(path, {"seed": 0}, make), kept(path, {"seed": 0}, make)] == [2, 2]
    assert [kept(path, {"seed": 1}, make), kept(path, {"seed": 0}, make)] == [3, 4]


def test_summaries_by_hand():
    assert summary(torch.tensor([1.0, 2.0, 3.0])) == {"value": 2.0, "standard_error": 0.57735, "n": 3}
    assert summary(torch.tensor([5.0]))["standard_error"] is None


def parsers(monkeypatch: pytest.MonkeyPatch) -> dict[str, argparse.ArgumentParser]:
    """Every script's parser of a command line."""

    def show(parser: argparse.ArgumentParser) -> None:
        raise LookupError(parser)

    found = {}
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", show)
        for path in [*Path("benchmarks").glob("*.py"), *Path("benchmarks").glob("*/__main__.py")]:
            if "def parse_arguments" in path.read_text():
                with pytest.raises(LookupError) as shown:
                    importlib.import_module(".".join(path.with_suffix("").parts)).parse_arguments()
                found[str(path)] = shown.value.args[0]
    return found


def test_numbers_that_no_script_takes_end_it_in_one_line(monkeypatch, capsys):
    refused = 0
    for parser in parsers(monkeypatch).values():
        for action in parser._actions:
            assert action.type not in (int, float) or action.choices
            if getattr(action.type, "__module__", "") == options.__name__:
                wrong = "0" if action.type.__name__.startswith("positive") else "-1"
                values = [wrong] * (action.nargs if isinstance(action.nargs, int) else 1)
                with pytest.raises(SystemExit):
                    parser.parse_args([action.option_strings[0], *values])
                printed = capsys.readouterr().err.splitlines()[-1]
                assert f"error: argument {action.option_strings[0]}: it must be " in printed
                assert f"Got {wrong}" in printed
                refused += 1
    assert refused > 90


@pytest.mark.parametrize("kind", [options.positive_float, options.nonnegative_float])
@pytest.mark.parametrize("wrong", ["nan", "inf"])
def test_numbers_are_finite(kind, wrong):
    with pytest.raises(argparse.ArgumentTypeError, match=f"Got {wrong}"):
        kind(wrong)


def test_options_have_their_defaults_types(monkeypatch):
    monkeypatch.setattr("sys.argv", ["", "--timesteps", "3", "4", "--classifier", "a", "--classifier", "b"])
    args = script_parser("doc", timesteps=[1], classifier=(), seed=0, work=Path("runs")).parse_args()
    assert (args.timesteps, args.classifier, args.seed, args.work) == ([3, 4], ["a", "b"], 0, Path("runs"))


def test_sets_are_published_files_or_made_on_the_fly(tmp_path, cifar10, samples):
    made, clean = open_set("cifar10-c", str(cifar10), "fog", 5), open_set("cifar10-c", str(cifar10))
    pixels = torch.stack([made[i][0] for i in range(8)])
    assert torch.equal(pixels, corrupt(samples, "fog", 5, corruption_set="cifar10-c", seed=0))
    assert made[3][1] == CLASSES.index("cat")
    assert torch.equal(clean[3][0], samples[3])
    np.save(tmp_path / "fog.npy", np.full((5, 32, 32, 3), 7, np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(5))
    published = open_set("cifar10-c", str(tmp_path), "fog", 5)
    assert (len(published), published[0][1], int(published[0][0].max())) == (1, 4, 7)


def test_tiny_imagenet_is_corrupted_at_64_pixels(tmp_path):
    data = str(write_dataset(tmp_path, side=64))
    made, clean = open_set("tiny-imagenet-c", data, "contrast", 5), open_set("tiny-imagenet-c", data)
    assert (made[3][0].shape, made[3][1]) == ((3, 64, 64), CLASSES.index("cat"))
    # The factor at severity 5 is 0.05. The images are then truncated and coded as JPEG.
    assert made[3][0].float().std() < 0.1 * clean[3][0].float().std()
    for wnid in ("n02124075", "n01443537"):
        (tmp_path / "c" / "fog" / "5" / wnid).mkdir(parents=True)
        sample_images()["cat"].resize((64, 64)).save(tmp_path / "c" / "fog" / "5" / wnid / "a.JPEG")
    published = open_set("tiny-imagenet-c", str(tmp_path / "c"), "fog", 5)
    assert [(image.shape[-1], target) for image, target in published] == [(64, 0), (64, 1)]


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    import datasets

    for split, label in (("test", -1), ("validation", 3)):
        rows = datasets.Dataset.from_dict({"image": [sample_images()["cat"]], "label": [label]})
        rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    assert open_set("imagenet", str(tmp_path))[0][1] == 3
    assert HubImages(str(tmp_path), transform=center_crop(20))[0][0].shape == (3, 20, 20)
    with pytest.raises(ValueError, match="must have a train split. Got"):
        HubImages(str(tmp_path), "train")


def test_imagenet_sets_from_folders(tmp_path):
    for folder in ("val/n01440764", "c/fog/5/n01440764", "r/n01443537"):
        (tmp_path / folder).mkdir(parents=True)
        sample_images()["cat"].resize((300, 300)).save(tmp_path / folder / "a.JPEG")
    val, made = (open_set("imagenet-c", str(tmp_path / "val"), name, 5) for name in ("clean", "contrast"))
    assert (val[0][1], val[0][0].shape) == (0, (3, 224, 224))
    assert made[0][0].float().std() < 0.3 * val[0][0].float().std()
    assert len(open_set("imagenet-c", str(tmp_path / "c"), "fog", 5)) == 1
    assert open_set("imagenet-r", str(tmp_path / "r"))[0][1] in candidate_classes("imagenet-r")


def test_resize_takes_the_papers_centre_of_published_and_of_made_images(tmp_path):
    for folder in ("val/n01440764", "c/fog/5/n01440764"):
        (tmp_path / folder).mkdir(parents=True)
    sample_images()["cat"].resize((300, 300)).save(tmp_path / "val/n01440764/a.png")
    made = open_set("imagenet-c", str(tmp_path / "val"), "fog", 5)[0][0]
    F.to_pil_image(made).save(tmp_path / "c/fog/5/n01440764/a.png")
    resized = F.pil_to_tensor(F.to_pil_image(made).resize((256, 256), PIL.Image.Resampling.BILINEAR))
    for data in ("val", "c"):  # made on the fly, and published
        assert torch.equal(open_set("imagenet-c", str(tmp_path / data), "fog", 5, resize=256)[0][0], resized)
    assert torch.equal(centre(resized, 224), resized[:, 16:240, 16:240])
    clean = sample_images()["cat"].resize((300, 300)).resize((256, 256), PIL.Image.Resampling.BILINEAR)
    assert torch.equal(
        open_set("imagenet-c", str(tmp_path / "val"), resize=256)[0][0],
        F.pil_to_tensor(clean),
    )


def test_resize_is_for_imagenet_and_no_upsampled_centre(tmp_path):
    for name, resize in (("cifar10-c", 256), ("imagenet-c", 128)):
        with pytest.raises(ValueError, match=f"resize must be at least 224.* Got {resize} for {name}"):
            open_set(name, str(tmp_path), "fog", 5, resize=resize)


def test_every_image_is_in_one_batch_of_one_process():
    data = TensorDataset(torch.arange(30)[:, None], torch.arange(30))
    subset = random_subset(data, 11)
    parts = [batch for rank in range(3) for batch in batches(subset, 2, rank, 3)]
    assert sorted(place for batch in parts for place in batch.places) == sorted(places_in_full(subset))
    assert all(b.images[:, 0].tolist() == b.targets.tolist() == b.places for b in parts)
    assert max(len(batch.places) for batch in parts) == 2


def test_noise_depends_on_the_image_alone():
    together = draw_noise([3, 7], 2, (3, 4, 4), seed=0)
    assert together.shape == (2, 2, 3, 4, 4)
    assert torch.equal(draw_noise([7], 2, (3, 4, 4), seed=0), together[:, 1:])
    assert not torch.equal(draw_noise([7], 2, (3, 4, 4), seed=1), together[:, 1:])


def test_classifiers_from_folders_and_files(tmp_path):
    from torchvision.models import mobilenet_v3_small

    _, fields = open_classifier(str(write_classifier(tmp_path / "a", "augmix", 2)))
    assert fields == {"model": "cifar_resnet-8", "recipe": "augmix", "seed": 2}
    config = json.loads((tmp_path / "a" / "classifier.json").read_text())
    config["arguments"]["extra_data"] = "synth"
    (tmp_path / "a" / "classifier.json").write_text(json.dumps(config))
    assert open_classifier(str(tmp_path / "a"))[1]["recipe"] == "augmix+synth"
    assert open_classifier("cifar10-diffaug")[1] == {"model": "cifar_resnet-32", "recipe": "diffaug", "seed": 0}
    model = mobilenet_v3_small()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    classifier, fields = open_classifier(f"mobilenet_v3_small@{tmp_path / 'mine.pth'}")
    assert fields == {"model": "mobilenet_v3_small", "recipe": "mine", "seed": 0}
    assert torch.equal(classifier.model.classifier[3].weight, model.classifier[3].weight)


def test_a_classifier_for_other_classes_is_refused():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="for 21843 classes. Got num_classes=1000: its last layer would be new"):
        open_classifier("timm/vit_tiny_patch16_224.augreg_in21k")


def test_log_probabilities_and_their_entropy():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    views = torch.rand(2, 5, 3, 2, 2)
    found = log_probabilities(classifier, views, batch_size=3)
    assert torch.allclose(found[1], classifier(views[1]).log_softmax(1), atol=1e-6)
    assert entropy(torch.tensor([0.5, 0.5, 0.0]).log()).item() == pytest.approx(torch.tensor(2.0).log().item())


def test_methods_take_turns():
    calls: list[str] = []
    methods = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert {len(times) for times in time_interleaved(methods, 3, CPU).values()} == {3}
    assert "".join(calls) == "ab" * 5
    assert ratio([2.0, 6.0, 4.0], [1.0, 1.0, 1.0]) == (4.0, pytest.approx(2 / 3**0.5))


def test_events_of_the_device_that_is_measured(monkeypatch):
    class Event:
        now = 0.0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "the stream of cuda:1"
            self.time = Event.now

        def elapsed_time(self, end: Event) -> float:
            return end.time - self.time

    def take(milliseconds: float) -> None:
        Event.now += milliseconds

    waits = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    methods = {"a": lambda: take(20), "b": several(lambda: take(20), 4)}
    assert time_interleaved(methods, 2, torch.device("cuda", 1)) == {"a": [0.02] * 2, "b": [0.08] * 2}
    assert set(waits) == {torch.device("cuda", 1)}


def test_memory_of_the_device_that_is_measured(monkeypatch):
    used = {"cuda:0": 1000, "cuda:1": 10}
    peaks = dict(used)

    def run() -> None:
        used["cuda:1"] += 5
        peaks["cuda:1"] = max(peaks["cuda:1"], used["cuda:1"])

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda d: peaks.update({str(d): used[str(d)]}))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda d: used[str(d)])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda d: peaks[str(d)])
    assert peak_bytes(run, torch.device("cuda", 1)) == 5


def test_peak_memory_by_hand():
    def add() -> Tensor:
        first = torch.ones(250_000)
        second = first + 1
        del first
        return second + 1

    assert peak_bytes(add, CPU) == pytest.approx(2e6, rel=0.01)


def test_calls_are_counted(oracle, schedule):
    network = ScoreNetwork(oracle, schedule)
    classifier, images = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), torch.rand(2, 3, 8, 8)
    denoiser = Denoiser(network, differentiable=True)
    unet = denoiser.ready("cpu").unet
    ensemble = DiffAugEnsemble(classifier, denoiser, timesteps=range(0, 451, 50))
    assert count_calls(unet, lambda: ensemble(images)) == (18, 0)
    assert count_calls(unet, lambda: DDA(denoiser, start_timestep=505)(images)) == (100, 100)
    assert count_calls(unet, lambda: classifier(images)) == (0, 0)


def test_pictures(tmp_path):
    ramp = torch.linspace(-5, 5, 101).reshape(1, 1, 1, 101)
    shown = stretch(torch.cat([ramp, 1e-6 * ramp]))
    assert shown[0, 0, 0, [0, 1, 50, 99, 100]].tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-5)
    draw_rows({"a": [torch.rand(3, 8, 8), None], "b": list(torch.rand(2, 3, 8, 8))}, ["x", "y"], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
