"""examples/image_data.py and sample_views.py: classes by name, what is left out, what is refused, damaged images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import PIL.Image
import pytest
import torch
from image_data import find_files, load_images, load_source, load_test_images
from progress import READ_EVERY, Progress
from sample_views import EvaluationImages, ViewsDataset, load_training_images, prepared_copies, read_skipped
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.images import sample_images
from tests.pretend_device import PretendedDevices

CAT = sample_images()["cat"]


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        CAT.save(folder / name)
    return folder


def write_rows(folder: Path, split: str, types: dict[str, Any], **columns: list[Any]) -> Path:
    """A split with an image a row, in the Hub's layout."""
    folder.mkdir(exist_ok=True)
    number = len(next(iter(columns.values()), [0]))
    features = datasets.Features({"photo": datasets.Image(), **types})
    rows = datasets.Dataset.from_dict({"photo": [CAT] * number, **columns}, features=features)
    rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def break_file(path: Path) -> None:
    CAT.resize((300, 300)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:3000])


def test_classes_are_matched_by_name(tmp_path):
    """Without a word, the old numbering gave c the label of b, and with a hidden folder all labels of the training."""
    data = write(tmp_path, "train/.ipynb_checkpoints/x.jpg", *(f"train/{c}/{i}.png" for c in "abc" for i in range(2)))
    write(data, "test/a/0.png", "test/c/0.png", "test/.cache/x.png", "test/c/.hidden.png", "test/c/deep/1.png")
    images, _ = load_training_images([str(data)], [], None)
    assert (images.classes, images.labels) == (["a", "b", "c"], [0, 0, 1, 1, 2, 2])
    test = load_test_images(str(data), None, images.classes)
    assert (test.labels, [str(p) for p in test.paths]) == ([0, 2, 2], ["a/0.png", "c/0.png", "c/deep/1.png"])
    write(data, "test/d/0.png")
    with pytest.raises(ValueError, match="test split of .* must have images of the training classes only. Got also d"):
        load_test_images(str(data), None, images.classes)


def test_extra_data_are_matched_by_name_too(tmp_path):
    real = write(tmp_path / "real", "a/0.png", "b/0.png", "c/0.png")
    extra = write(tmp_path / "extra", "c/0.png", "b/0.png")
    images, _ = load_training_images([str(real), str(extra)], [], None)
    assert images.labels == [0, 1, 2, 1, 2]
    with pytest.raises(ValueError, match="extra data must have images of the training classes only. Got also a"):
        load_training_images([str(extra), str(real)], [], None)


def test_splits_of_folders(tmp_path):
    plain = write(tmp_path / "plain", "bus/0.png", "car/0.png", "train/0.png")
    assert load_images(str(plain), "train").classes == ["bus", "car", "train"]
    assert load_images(str(plain), "test") is None
    (plain / "empty").mkdir()
    with pytest.raises(ValueError, match="every class folder in .* must hold images. Got none in empty"):
        load_images(str(plain), "train")
    split = write(tmp_path / "split", "train/a/0.png", "test/0.png", "valid/a/0.png", "notes/0.png")
    assert len(load_test_images(str(split), None, ["a"])) == 1  # the images in test/ have no labels
    with pytest.raises(ValueError, match="must have a split train. Got validation"):
        load_source(str(write_rows(tmp_path / "hub", "validation", {"label": datasets.Value("int64")}, label=[0])))
    with pytest.raises(ValueError, match="must hold a folder of images for each class. Got no folder"):
        load_source(str(write(tmp_path / "flat", "0.png")))


def test_links_are_followed_but_in_no_circle(tmp_path):
    data = write(tmp_path / "data", "a/0.png", "a/deep/1.png")
    write(tmp_path / "elsewhere", "2.png")
    (data / "b").symlink_to(tmp_path / "elsewhere")
    (data / "a" / "deep" / "again").symlink_to(data / "a")
    images = load_source(str(data))
    assert [str(path) for path in images.paths] == ["a/0.png", "a/deep/1.png", "b/2.png"]


def test_unlabelled_images_are_for_score_networks(tmp_path):
    flat, labelled = write(tmp_path / "flat", "0.png", "1.png"), write(tmp_path / "two", "a/0.png", "b/0.png")
    assert (load_source(str(flat), "optional").classes, load_source(str(flat), "optional").labels) == ([], [-1, -1])
    assert load_source(str(labelled), "optional").classes == ["a", "b"]
    assert load_source(str(labelled), "unused").labels == [-1, -1]
    rows = write_rows(tmp_path / "rows", "train", {})
    assert (load_source(str(rows), "optional").classes, len(load_source(str(rows), "optional"))) == ([], 1)
    one_file = str(next(rows.glob("*.parquet")))
    assert load_source(one_file, "optional")[0][0].tobytes() == CAT.tobytes()


def test_hidden_labels_give_way_to_validation(tmp_path):
    label = {"label": datasets.ClassLabel(names=["a", "b"])}
    data = write_rows(tmp_path, "test", label, label=[-1, -1])
    write_rows(data, "train", label, label=[0, 1])
    assert load_test_images(str(data), None, ["a", "b"]) is None
    write_rows(data, "validation", label, label=[1])
    assert load_test_images(str(data), None, ["b", "a"]).labels == [0]
    write_rows(tmp_path / "half", "train", label, label=[0, -1])
    with pytest.raises(ValueError, match="every image of .* must have a label. Got 1 of 2 without one"):
        load_source(str(tmp_path / "half"))


def test_columns_of_labels(tmp_path):
    names = datasets.ClassLabel(names=["a", "b"])
    other = write_rows(tmp_path / "other", "train", {"kind": names}, kind=[1, 0])
    assert (load_source(str(other)).classes, load_source(str(other)).labels) == (["a", "b"], [1, 0])
    text = write_rows(tmp_path / "text", "train", {"label": datasets.Value("string")}, label=["dog", "ant", "dog"])
    assert (load_source(str(text)).classes, load_source(str(text)).labels) == (["ant", "dog"], [1, 0, 1])
    write_rows(text, "test", {"label": datasets.Value("string")}, label=["dog"])
    assert load_test_images(str(text), None, ["ant", "dog"]).labels == [1]
    none = write_rows(tmp_path / "none", "train", {"kind": datasets.Value("string")}, kind=["x"])
    with pytest.raises(ValueError, match=r"must have a column label, labels.* Got photo \(Image\), kind \(Value\)"):
        load_source(str(none))
    many = write_rows(tmp_path / "many", "train", {"labels": datasets.List(datasets.Value("int64"))}, labels=[[0, 1]])
    with pytest.raises(ValueError, match=r"one class for each image, an integer or a name. Got .*labels \(List\)"):
        load_source(str(many))
    no_image = tmp_path / "no_image"
    no_image.mkdir()
    datasets.Dataset.from_dict({"label": [0]}).to_parquet(no_image / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"must have a column of images. Got label \(Value\)"):
        load_source(str(no_image))


@pytest.mark.parametrize("where", ["folder", "rows"])
def test_a_damaged_image_is_named_or_skipped(tmp_path, where):
    data = write(tmp_path / "data", "a/0.png", "a/1.jpg", "b/2.png")
    break_file(data / "a/1.jpg")
    if where == "rows":
        rows = {"photo": [str(p) for p in sorted(data.rglob("*.*"))], "label": [0, 0, 1]}
        features = datasets.Features({"photo": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        data = tmp_path / "rows"
        data.mkdir()
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(data / "train-00000-of-00001.parquet")
    images, skipped = load_source(str(data)), tmp_path / "out" / "skipped.txt"
    view = lambda image: {"image": F.pil_to_tensor(image)}  # noqa: E731
    with pytest.raises(OSError, match=r"1.jpg.* is no whole picture"):
        ViewsDataset(images, view, 0)[0, 1]
    dataset = ViewsDataset(images, view, 0, skipped=skipped)
    assert dataset[0, 1][1] == 1  # the next image, of the other class
    assert dataset[5, 1][1] == 1
    assert len(read_skipped(skipped)) == 1
    with pytest.raises(OSError, match="1.jpg"):
        EvaluationImages(images, lambda image: image)[1]
    tested = EvaluationImages(images, lambda image: image.resize((4, 4)), skipped=skipped)
    _, labels, index = next(iter(DataLoader(tested, 3, num_workers=1)))
    assert (labels.tolist(), index.tolist()) == ([0, -1, 1], [0, 1, 2])
    assert len(read_skipped(skipped)) == 1
    nothing = ViewsDataset(images.at([1]), view, 0, skipped=skipped)
    with pytest.raises(OSError, match="no image of the training data can be read"):
        nothing[0, 0]


def test_pictures_stand_upright_and_are_rgb(tmp_path):
    """As `diffaug augment` reads them, so that a prepared copy lies as its clean view does."""
    tall = PIL.Image.new("L", (20, 30), 7)
    exif = tall.getexif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    tall.save(tmp_path / "a" / "0.jpg", exif=exif)
    image, _ = load_source(str(tmp_path))[0]
    assert (image.size, image.mode) == ((30, 20), "RGB")


def test_copies_are_paired_where_names_end_like_numbers(tmp_path):
    """x_0.jpg was once paired with x.jpg's copy x_0.jpg."""
    images = load_source(str(write(tmp_path / "data", "a/x.png", "a/x_0.png", "a/x_0_0.png")))
    two = write(tmp_path / "two", *(f"a/{stem}_{k}.png" for stem in ("x", "x_0", "x_0_0") for k in (0, 1)))
    named = [[path.stem for path in found] for found in prepared_copies(images, two)]
    assert named == [["x_0", "x_1"], ["x_0_0", "x_0_1"], ["x_0_0_0", "x_0_0_1"]]
    one = write(tmp_path / "one", "a/x.png", "a/x_0.png", "a/x_0_0.png")
    assert [[path.stem for path in found] for found in prepared_copies(images, one)] == [["x"], ["x_0"], ["x_0_0"]]
    _, few = load_training_images([str(tmp_path / "data")], [two], limit=1)
    assert few in [[paths] for paths in prepared_copies(images, two)]


def test_a_step_waits_for_no_device(tmp_path, monkeypatch):
    """The measurements are read every READ_EVERY steps, all at once."""
    shown: list[dict[str, float]] = []
    accelerator = SimpleNamespace(device=torch.device("cpu"), log=lambda values, step: shown.append(values))
    progress = Progress.__new__(Progress)
    vars(progress).update(accelerator=accelerator, step=0, steps=50, smoothed={}, clock=[], checkpoint_every=99)
    progress.bar = SimpleNamespace(set_postfix=lambda *args, **options: None)
    with PretendedDevices() as devices:
        for step in range(1, READ_EVERY + 1):
            progress.step = step
            loss, nothing = torch.ones((), device="cuda"), torch.full((), float("nan"), device="cuda")
            progress.report(0.1, loss * step, accuracy=50 * loss, accuracy_q0=nothing if step % 2 else loss)
            assert len(devices.syncs) == (step == READ_EVERY)
    mean = 1.0
    for step in range(2, READ_EVERY + 1):
        mean = 0.95 * mean + 0.05 * step
    assert shown == [{"loss": pytest.approx(mean), "accuracy": 50, "accuracy_q0": 1, "lr": 0.1}]


def test_steps_are_timed_by_the_gpus_own_clock(monkeypatch):
    """The host runs ahead of a GPU, so its clock would tell how long a step takes to launch."""
    clock = iter([0.0, 10.0, 40.0, 60.0])  # milliseconds

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time = next(clock)

        def elapsed_time(self, later: Event) -> float:
            return later.time - self.time

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    accelerator = SimpleNamespace(device=torch.device("cuda"), num_processes=2)
    progress = Progress.__new__(Progress)
    vars(progress).update(accelerator=accelerator, steps=3, seconds_before=1.0, started=0.0, now=2.0)
    progress.clock = [progress.tick() for _ in range(4)]
    metadata = progress.metadata(batch_size=5)
    assert metadata["seconds_per_step"] == pytest.approx(0.02)
    assert (metadata["images"], metadata["seconds"]) == (30, 3.0)


def test_pictures_of_other_formats_are_counted(tmp_path):
    for name in ("a.jpg", "b.heic", "c.dng", "notes.txt", ".d.heic"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match="has 2 pictures whose format is not read, such as b.heic: left out"):
        assert [path.name for path in find_files(tmp_path)] == ["a.jpg"]
