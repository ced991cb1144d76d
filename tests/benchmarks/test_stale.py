"""Kept results of the benchmarks: used for the same inputs only, and made again if they are damaged."""

from __future__ import annotations

import argparse
import json
import os
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from benchmarks import certify, covariate_shift, ensemble_rules, train_cifar10
from benchmarks.harness.data import check_classes, open_set
from diffaug_transforms import ScoreNetwork
from diffaug_transforms.images import sample_images
from diffaug_transforms.robustness import DDA, load_cifar10_c, random_subset
from diffaug_transforms.robustness.evaluation import judging, records
from diffaug_transforms.robustness.evaluation.digests import (
    digest,
    digest_of_classifier,
    digest_of_data,
    digest_of_network,
)
from diffaug_transforms.robustness.evaluation.records import kept, whole_file
from diffaug_transforms.robustness.evaluation.sets import HubImages, center_crop
from tests.conftest import tiny_unet

from .conftest import CLASSES, Run, write_classifier


def write_split(folder: Path, order: list[str]) -> Path:
    """A test split with the sample images, labelled by their names, in this order."""
    import datasets

    images, folder = sample_images(), folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = datasets.Dataset.from_dict({"img": [images[name] for name in order], "label": order}, features=features)
    rows.to_parquet(folder / "test-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04 half a file", b"[]"])
def test_a_damaged_file_is_made_again(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert [kept(path, {}, lambda: 3), kept(path, {}, lambda: 4)] == [3, 3]
    assert os.listdir(tmp_path) == ["a.pt"]
    path.write_bytes(path.read_bytes()[:-200])
    assert kept(path, {}, lambda: 5) == 5


def test_other_versions_are_other_results(tmp_path, monkeypatch):
    assert kept(tmp_path / "a.pt", {}, lambda: 3) == 3
    monkeypatch.setattr(records, "versions", lambda: {"torch": "0.1"})
    assert kept(tmp_path / "a.pt", {}, lambda: 4) == 4


def test_a_file_is_whole_or_not_there(tmp_path):
    """Two writers at once have a temporary file each, and a failure leaves the old one."""
    path = tmp_path / "deep" / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (path.read_text(), os.listdir(path.parent)) == ("first", ["a.txt"])
    with pytest.raises(TypeError):
        records.write_lines({}, [{"value": object()}], path)
    assert path.read_text() == "first"


def test_digests_of_values():
    one = torch.tensor([1.0, 2.0])
    different = [one, one.double(), one[:1], one[None], one.bfloat16(), [1.0, 2.0], "a", b"a", 1, "1", None]
    assert len({digest(value) for value in different}) == len(different)
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(one.clone(), {"a": 1, "b": 2}) == digest(one, {"b": 2, "a": 1})


def test_digests_of_networks_and_classifiers(tmp_path, schedule):
    unet = tiny_unet()
    first = digest_of_network(ScoreNetwork(unet, schedule))
    assert digest_of_network(ScoreNetwork(unet, schedule, prediction_type="v_prediction")) != first
    ScoreNetwork(unet, schedule).save_pretrained(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest_of_network(ScoreNetwork.from_pretrained(tmp_path / "b")) == first  # whatever its path
    with torch.no_grad():
        next(unet.parameters()).view(-1)[0] += 1
    assert digest_of_network(ScoreNetwork(unet, schedule)) != first
    classifier, fields = nn.Linear(2, 3), {"recipe": "diffaug"}
    classifier.mean = [0.5]
    before = digest_of_classifier(classifier, fields)
    classifier.mean = [0.4]
    assert digest_of_classifier(classifier, fields) != before


def test_digests_of_data(tmp_path, cifar10):
    names = list(sample_images())
    data = HubImages(str(write_split(tmp_path / "a", names)))
    same = digest_of_data(data)
    assert digest_of_data(HubImages(str(write_split(tmp_path / "b", names)))) == same
    assert digest_of_data(HubImages(str(write_split(tmp_path / "c", names[::-1])))) != same
    assert digest_of_data(HubImages(str(tmp_path / "a" / "data"), transform=center_crop(20))) != same
    fog, snow = (open_set("cifar10-c", str(cifar10), name, 5) for name in ("fog", "snow"))
    parts = [
        fog,
        snow,
        Subset(fog, [0, 1]),
        Subset(fog, [1, 0]),
        ConcatDataset([fog, snow]),
        ConcatDataset([snow, fog]),
    ]
    assert len({digest_of_data(part) for part in parts}) == len(parts)
    arrays = TensorDataset(torch.arange(6.0).reshape(2, 3), torch.tensor([0, 1]))
    assert digest_of_data(arrays) != digest_of_data(Subset(arrays, [0]))
    np.save(tmp_path / "labels.npy", np.arange(5))
    for value in (7, 8):
        np.save(tmp_path / "fog.npy", np.full((5, 32, 32, 3), value, np.uint8))
        parts.append(digest_of_data(load_cifar10_c(tmp_path, "fog", 1)))
    assert parts[-1] != parts[-2]
    folder = tmp_path / "val" / "n01440764"
    folder.mkdir(parents=True)
    found = []
    for name in ("cat", "dog", "cat"):
        sample_images()[name].save(folder / "a.png")
        found.append(digest_of_data(open_set("imagenet", str(folder.parent))))
    assert found[0] == found[2] != found[1]


@pytest.fixture
def judge(tmp_path: Path, run: Run, classifiers: list[Path], network_folder: Path) -> Callable[..., list[dict]]:
    """Runs covariate_shift in one --work folder, and says how many parts and DDA images were made."""
    calls: list[str] = []

    def judge(monkeypatch: pytest.MonkeyPatch, data: Path, classifier: Path = classifiers[0], **options: Any) -> Any:
        calls.clear()
        judge_part, adapt = judging.judge_part, DDA.adapt
        with monkeypatch.context() as patch:
            patch.setattr(judging, "judge_part", lambda *a: calls.append("part") or judge_part(*a))
            patch.setattr(DDA, "adapt", lambda dda, x, noise: calls.extend(["image"] * len(x)) or adapt(dda, x, noise))
            chosen = {"network": network_folder, "dataset": "cifar10", "limit": 3, "work": tmp_path / "work", **options}
            arguments = [part for key, value in chosen.items() for part in (f"--{key}", value)]
            found = run(covariate_shift, "--data", data, "--classifier", classifier, *arguments)
        return found, (calls.count("part"), calls.count("image"))

    return judge


def test_covariate_shift_uses_nothing_stale(tmp_path, monkeypatch, judge, schedule):
    names = list(sample_images())
    data = write_split(tmp_path / "first", names)
    first, made = judge(monkeypatch, data)
    assert made == (1, 3)
    assert judge(monkeypatch, data) == (first, (0, 0))
    moved = data.rename(tmp_path / "moved")
    assert judge(monkeypatch, moved)[1][1] == 0  # DDA's images serve wherever the data are
    assert judge(monkeypatch, moved, seed=1)[1] == (1, 3)
    other, made = judge(monkeypatch, write_split(tmp_path / "first", names[::-1]))
    assert made[0] == 1
    assert made[1] >= 2  # of another data set at the old one's path, but for images at their old places
    alone, _ = judge(monkeypatch, tmp_path / "first" / "data", work=tmp_path / "empty")
    assert other == alone
    network = tmp_path / "elsewhere" / "network"
    unet = tiny_unet(num_class_embeds=11)
    torch.nn.init.constant_(unet.conv_in.bias, 1.0)
    ScoreNetwork(unet, schedule, null_class=10).save_pretrained(network)
    assert judge(monkeypatch, moved, network=network)[1] == (1, 3)  # of the same stem


def test_a_classifier_that_is_trained_again_is_noticed(tmp_path, monkeypatch, judge, cifar10):
    folder = write_classifier(tmp_path / "classifier", "diffaug", 0)
    first, _ = judge(monkeypatch, cifar10, folder)
    assert judge(monkeypatch, cifar10, folder) == (first, (0, 0))
    write_classifier(folder, "diffaug", 1)
    metadata = json.loads((folder / "classifier.json").read_text())
    metadata["arguments"]["seed"] = 0
    (folder / "classifier.json").write_text(json.dumps(metadata))
    again, made = judge(monkeypatch, cifar10, folder)
    assert made == (1, 0)
    assert again != first


def test_damaged_files_of_covariate_shift_are_made_again(tmp_path, monkeypatch, judge, cifar10):
    first, _ = judge(monkeypatch, cifar10)
    (pictures,) = {path.parent for path in (tmp_path / "work").rglob("*.png")}
    one, two, _ = sorted(pictures.iterdir())
    one.write_bytes(one.read_bytes()[:100])
    two.write_bytes(b"")
    (part,) = (tmp_path / "work").rglob("records.pt")
    part.write_bytes(part.read_bytes()[:50])
    assert judge(monkeypatch, cifar10) == (first, (1, 2))


def test_certify_uses_no_votes_of_other_images(tmp_path, run, monkeypatch, network_folder, classifiers):
    names, counted, count_votes = list(sample_images()), [], certify.count_votes
    monkeypatch.setattr(certify, "count_votes", lambda *a: counted.append(a) or count_votes(*a))
    folder = write_classifier(tmp_path / "classifier", "diffaug", 0)
    options: list[object] = ["--network", network_folder, "--sigmas", 0.25, "--n0", 5, "--n", 9, "--images", 2]
    options += ["--classifier", folder, "--max-batch", 4, "--failure-probability", 0.3]

    def votes(data: Path, work: str) -> tuple[list[dict], int]:
        counted.clear()
        return run(certify, "--data", data, "--work", tmp_path / work, *options), len(counted)

    first, made = votes(write_split(tmp_path, names), "work")
    assert made == 4
    assert votes(tmp_path / "data", "work") == (first, 0)
    other = votes(write_split(tmp_path, names[::-1]), "work")
    assert other == votes(tmp_path / "data", "empty")
    assert other[1] == 4
    next((tmp_path / "work").rglob("sigma-0.25/*.pt")).write_bytes(b"")
    assert votes(tmp_path / "data", "work") == (other[0], 2)
    write_classifier(folder, "diffaug", 1)
    assert votes(tmp_path / "data", "work")[1] == 4


def test_labels_are_numbered_as_the_classifiers_are(tmp_path, cifar10):
    """A classifier of six of the classes would be judged by other classes' numbers."""
    data = random_subset(open_set("cifar10-c", str(cifar10), "fog", 5), 3)
    check_classes(data, {"all": SimpleNamespace(classes=CLASSES), "unnamed": nn.Linear(1, 1)})
    check_classes(data, {"others": SimpleNamespace(classes=("n01440764", "n01443537"))})
    with pytest.raises(ValueError, match="six must number the classes as the data do, bird as 2. Got 1"):
        check_classes(data, {"six": SimpleNamespace(classes=("airplane", "bird", "cat"))})


def test_a_set_without_labels_is_not_scored(tmp_path):
    import datasets

    for label in ([-1], [None]):
        rows = datasets.Dataset.from_dict({"image": [sample_images()["cat"]], "label": label})
        rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "test-00000-of-00001.parquet")
        assert HubImages(str(tmp_path)).targets == [-1]
        with pytest.raises(ValueError, match="must have a column label with classes. Got image, label"):
            open_set("imagenet", str(tmp_path))


def test_a_damaged_picture_is_named(tmp_path):
    data = write_split(tmp_path, ["cat", "dog"])
    import datasets

    rows = datasets.load_dataset(str(data), split="test").cast_column("img", datasets.Image(decode=False))
    broken = [{**row, "img": {"bytes": row["img"]["bytes"][:50], "path": "photo.png"}} for row in rows]
    features = {**rows.features, "img": datasets.Image()}
    datasets.Dataset.from_list(broken, datasets.Features(features)).to_parquet(data / "test-00000-of-00001.parquet")
    with pytest.raises(OSError, match=r"row 1 of .*data \(photo.png\) is no whole picture"):
        HubImages(str(data))[1]


def test_train_cifar10_uses_no_other_images_and_classifiers(tmp_path, monkeypatch):
    names, commands = list(sample_images()), []
    first, other = write_split(tmp_path / "a", names), write_split(tmp_path / "b", names[::-1])
    for data in (first, other):
        (data / "train-00000-of-00001.parquet").write_bytes((data / "test-00000-of-00001.parquet").read_bytes())
    args = Namespace(work=tmp_path / "work", data=str(first), synthetic=0, in_loop=False, known=None, model="resnet18")
    vars(args).update(batch_size=8, lr=None, start_steps=5, workers=0, parallel=1, seeds=1, recipes=None, copies=1)
    vars(args).update(start=None, mean_loss=False)
    monkeypatch.setattr(train_cifar10.subprocess, "run", lambda command, **options: commands.append(command))
    train_cifar10.prepare(args)
    train_cifar10.prepare(args)
    assert len(list((args.work / "images" / "train").rglob("*.png"))) == 8
    with pytest.raises(ValueError, match="images was made of other data or with other options: remove it"):
        train_cifar10.prepare(Namespace(**{**vars(args), "data": str(other)}))
    with pytest.raises(ValueError, match="synth was made of other data or with other options: remove it"):
        train_cifar10.prepare(Namespace(**{**vars(args), "synthetic": 10}))

    commands.clear()
    train_cifar10.train(args, "start", 0)
    assert commands[0][commands[0].index("--steps") + 1] == "5"
    write_classifier(args.work / "start-0", "baseline")
    config = args.work / "start-0" / "classifier.json"
    metadata = json.loads(config.read_text())
    metadata["arguments"] |= {
        "model": "resnet18",
        "batch_size": 8,
        "steps": 5,
        "lr": 0.2,
        "data": f"{args.work}/images",
        "diffaug_data": [f"{args.work}/images_diffaug"],
    }
    config.write_text(json.dumps(metadata))
    train_cifar10.train(args, "start", 0)
    with pytest.raises(ValueError, match=r"start-0 was trained with {'steps': 5}. Got {'steps': 6}: remove it"):
        train_cifar10.train(Namespace(**{**vars(args), "start_steps": 6}), "start", 0)
    assert len(commands) == 1


def test_train_cifar10_compares_networks(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(train_cifar10, "export_images", lambda data, folder: folder.mkdir(exist_ok=True))
    monkeypatch.setattr(train_cifar10, "images_digest", lambda data: "digest")
    monkeypatch.setattr(train_cifar10.subprocess, "run", lambda command, **options: commands.append(command))
    recipes = ["baseline", "diffaug", "diffaug@hub/small"]
    args = Namespace(work=tmp_path, data="", in_loop=False, known=None, lr=None, seeds=2, recipes=recipes, copies=2)
    vars(args).update(batch_size=128, start_steps=None, steps=600, workers=0, parallel=1, model="airbench94")
    vars(args).update(start=None, mean_loss=False)
    assert train_cifar10.plan(args) == [(name, seed) for seed in (0, 1) for name in recipes]
    train_cifar10.prepare(args)
    views = [f"{tmp_path}/images_diffaug", f"{tmp_path}/images_diffaug@small"]
    assert [command[5] for command in commands] == views
    assert [command[7] for command in commands] == ["cifar10", "hub/small"]
    train_cifar10.train(args, "start", 1)
    train_cifar10.train(args, "diffaug@hub/small", 1)
    in_loop = Namespace(**{**vars(args), "in_loop": True, "data": "hub/images", "batch_size": 256})
    train_cifar10.train(in_loop, "diffaug@hub/small", 1)
    train_cifar10.train(Namespace(**{**vars(in_loop), "lr": 0.02, "start": tmp_path / "shared"}), "baseline", 1)
    averaging = Namespace(**{**vars(in_loop), "mean_loss": True})
    train_cifar10.train(averaging, "diffaug", 1)
    start, small, looped, gentle, averaged = (" ".join(command) for command in commands[2:])
    assert "--optimizer airbench --label-smoothing 0.2" in start
    assert "--batch-size 1024" in start
    assert f"--init {tmp_path}/start-1" in small
    assert f"--init {tmp_path}/shared" in gentle
    assert [line.endswith("--mean-loss") for line in (small, looped, gentle, averaged)] == [False, False, False, True]
    assert "--recipe diffaug " in small
    assert f"--diffaug-data {views[1]}" in small
    assert "--data hub/images" in looped
    assert looped.endswith("--network hub/small")
    assert ("--lr 0.05 " in small, "--lr 0.1 " in looped, "--lr 0.02 " in gentle) == (True, True, True)


@pytest.mark.parametrize("name", ["diffaugs", "baseline@photos", "diffaug@", "augmix+synth@photos"])
def test_recipes_of_other_names_are_refused(name):
    with pytest.raises(argparse.ArgumentTypeError, match=f"Got {re.escape(name)}"):
        train_cifar10.recipe_name(name)


def test_ensemble_rules_read_finished_parts_of_one_run(tmp_path):
    """A part that was stopped has views and no records. A part of another seed is not mixed in."""
    for name, seed in (("clean", 0), ("fog-5", 0), ("snow-5", 1)):
        kept(tmp_path / name / "records.pt", {"seed": seed, "images": name}, list)
    (tmp_path / "blur-5").mkdir()
    (tmp_path / "blur-5" / "views-0.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="must hold parts of one run .* Got other options for clean and snow-5"):
        ensemble_rules.finished_parts(tmp_path)
    (tmp_path / "snow-5" / "records.pt").write_bytes(b"half")
    assert [part.name for part in ensemble_rules.finished_parts(tmp_path)] == ["clean", "fog-5"]
