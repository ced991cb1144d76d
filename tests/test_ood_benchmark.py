"""The OOD benchmark: its sets and tables by hand, and a run from classifiers to JSON, table and picture."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.models import ResNet50_Weights

from diffaug_transforms.classifiers import NormalizedClassifier, build_model, load_classifier, save_classifier
from diffaug_transforms.figures import sample_images
from diffaug_transforms.robustness import OOD_METHODS, ShiftSet, auroc
from diffaug_transforms.robustness.ood_sets import read_image_folder

from .benchmark_runs import CLASSES, write_classifier, write_dataset

for module in ("datasets", "matplotlib"):
    pytest.importorskip(module)

import ood  # noqa: E402
import ood_inputs  # noqa: E402
from ood_tables import far_table, fpr_table, near_table, sets_table  # noqa: E402
from shift_inputs import read_hub_set  # noqa: E402

KNOWN = ["truck", "bird", "cat", "ship", "frog", "horse"]


def write_idx(path: Path, images: np.ndarray, start: bytes = b"\x00\x00\x08\x03", cut: int | None = None) -> Path:
    shape = np.array(images.shape, ">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress((start + shape + images.tobytes())[:cut]))
    return path


def write_photos(folder: Path, labels: list[int]) -> Path:
    """ImageNet in the Hub's layout: the sample images, enlarged to 80x64."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    photos = [image.resize((80, 64)) for image in sample_images().values()][: len(labels)]
    rows = datasets.Dataset.from_dict({"image": photos, "label": labels}, features=features)
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


def test_idx_files(tmp_path):
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    read = ood_inputs.read_idx(write_idx(tmp_path / "a.gz", images))
    assert read.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    with pytest.raises(OSError, match="must hold 2 images of 2x3. Got 11 bytes"):
        ood_inputs.read_idx(write_idx(tmp_path / "short.gz", images, cut=-1))
    with pytest.raises(OSError, match="must be an IDX file of images"):
        ood_inputs.read_idx(write_idx(tmp_path / "labels.gz", images, start=b"\x00\x00\x08\x01"))
    whole = (tmp_path / "a.gz").read_bytes()
    for broken in (b"no gzip file", whole[:-12]):
        (tmp_path / "b.gz").write_bytes(broken)
        with pytest.raises(OSError, match="is no whole gzip file"):
            ood_inputs.read_idx(tmp_path / "b.gz")


def test_fashion_is_enlarged_and_grey(tmp_path):
    images = np.full((2, 28, 28), 200, np.uint8)
    images[1, :, 14:] = 0
    write_idx(tmp_path / ood_inputs.FASHION_FILE, images)
    data = ood_inputs.read_fashion(tmp_path, 32)
    assert (len(data), data[0].shape, data[0].unique().tolist()) == (2, (3, 32, 32), [200])
    assert torch.equal(data[1][0], data[1][2])
    assert (data[1][0, 5, [0, 12, 20, 31]]).tolist() == [200, 200, 0, 0]


def test_classes_that_cifar10_lacks():
    names = ResNet50_Weights.DEFAULT.meta["categories"]
    gone = ood_inputs.overlapping_classes()
    left_out = "airliner,warplane,cock,king penguin,tabby,lion,gazelle,Chihuahua,dhole,Arctic fox,bullfrog"
    left_out += ",sorrel,zebra,container ship,canoe,yawl,jeep,school bus,minivan,trailer truck,fire engine,tank"
    assert {name for name in left_out.split(",") if names.index(name) not in gone} == set()
    kept = "goldfish,axolotl,common newt,brown bear,ox,ram,Arabian camel,weasel,lesser panda,steam locomotive,plane"
    kept += ",balloon,mountain bike,moped,pier,teddy,pizza,volcano,hen-of-the-woods,crane,bathtub"
    assert {name for name in kept.split(",") if names.index(name) in gone} == set()
    assert max(gone) < 1000


def test_photos_are_cut_like_folders(tmp_path):
    labels = [1, 404, 963, 281]  # goldfish, airliner, pizza, tabby
    photos = ood_inputs.read_photos(str(write_photos(tmp_path / "photos", labels)), 32, 32)
    assert photos.labels == [(1,), (963,)]
    for i, image in enumerate(list(sample_images().values())[:4]):
        path = tmp_path / "folder" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        image.resize((80, 64)).save(path)
    folder = read_image_folder(tmp_path / "folder", 32)
    assert torch.equal(photos[0], folder[0])
    assert torch.equal(photos[1], folder[2])
    assert torch.equal(ood_inputs.read_set("mine", str(tmp_path / "folder"), 32, 32)[2], folder[2])
    assert len(ood_inputs.read_set("mine", str(tmp_path / "photos"), 32, 32)) == 4
    sharper = ood_inputs.read_photos(str(tmp_path / "photos"), 32, 32, "lanczos")
    assert (sharper.name, sharper[0].float().std() > photos[0].float().std()) == ("photos (lanczos)", True)


def test_known_and_unknown_classes():
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    images = ShiftSet("mine", [(2,), (0,), (1,), (2,), (3,)], None, lambda i: pixels[i])
    known, unknown = ood_inputs.split_known(images, ["a", "b", "c", "d"], ["c", "a"])
    assert [(int(known[i][0, 0, 0]), known.labels[i]) for i in range(3)] == [(0, (0,)), (1, (1,)), (3, (0,))]
    assert [int(image[0, 0, 0]) for image in unknown] == [2, 4]
    assert unknown.name == "unknown classes"
    everything, nothing = ood_inputs.split_known(images, "abcd", "abcd")
    assert (everything.labels, len(nothing)) == (images.labels, 0)
    with pytest.raises(ValueError, match="at least one image. Got none in unknown classes"):
        ood_inputs.load(nothing, "near")


def test_noise():
    gaussian, uniform = ood_inputs.noise_sets(50, 16, seed=1)
    assert (gaussian.pixels.shape, gaussian.pixels.dtype) == ((50, 3, 16, 16), torch.uint8)
    spread = [float(images.pixels.float().std()) / 255 for images in (gaussian, uniform)]
    # 4.6 % of the Gaussian's values are clipped, two deviations out; a uniform one's deviation is 1 / sqrt(12).
    assert spread == pytest.approx([0.24, 0.289], abs=0.005)
    assert torch.equal(ood_inputs.noise_sets(50, 16, seed=1)[0].pixels, gaussian.pixels)
    assert not torch.equal(ood_inputs.noise_sets(50, 16, seed=2)[0].pixels, gaussian.pixels)


def table_records(values: dict[tuple[str, int], float], dataset: str, distance: str) -> list[dict[str, object]]:
    common = {"model": "m", "dataset": dataset, "distance": distance, "n": 7, "n_id": 9, "classes": 10}
    metrics = [("", "accuracy"), *((method, m) for method in OOD_METHODS for m in ("auroc", "fpr95"))]
    return [
        {**common, "recipe": recipe, "seed": seed, "method": method, "metric": metric, "value": value}
        for (recipe, seed), value in values.items()
        for method, metric in metrics
        if (metric == "accuracy") == (distance == "id")
    ]


def test_the_tables_by_hand():
    values = {("baseline", 0): 70.0, ("baseline", 1): 80.0, ("diffaug", 0): 73.0, ("diffaug", 1): 85.0}
    records = table_records(values, "photos", "near") + table_records(values, "cifar10", "id")
    records += table_records(values, "noise", "far")
    records += table_records({key: 2 * value - 70 for key, value in values.items()}, "textures", "far")
    lines = near_table(records).splitlines()
    expected = "AUROC in percent; mean ± standard error over 2 seeds. Images out of distribution / in it: photos 7 / 9."
    assert lines[0] == expected
    assert lines[4] == "| photos | baseline |" + " 75.0 ± 5.0 |" * 6
    assert lines[5] == "| photos | diffaug |" + " 79.0 ± 6.0 |" * 6
    assert lines[6] == "| photos | baseline to diffaug |" + " +4.0 ± 1.0 |" * 6  # 3 and 5
    assert len(lines) == 7
    far = far_table(records).splitlines()
    assert far[4] == "| baseline |" + " 77.5 ± 7.5 |" * 6  # (70 + 70) / 2 and (80 + 90) / 2
    assert far[6] == "| baseline to diffaug |" + " +6.0 ± 1.5 |" * 6  # (3 + 6) / 2 and (5 + 10) / 2
    fpr = fpr_table(records).splitlines()
    assert fpr[2] == "| classifier | photos: msp | photos: scale | far, mean: msp | far, mean: scale |"
    assert fpr[4] == "| baseline | 75.0 ± 5.0 | 75.0 ± 5.0 | 77.5 ± 7.5 | 77.5 ± 7.5 |"
    sets = sets_table(records).splitlines()
    assert sets[2] == "| method | classifier | accuracy | photos | noise | textures |"
    assert sets[6] == "| msp | baseline to diffaug | +4.0 ± 1.0 | +4.0 ± 1.0 | +4.0 ± 1.0 | +8.0 ± 2.0 |"


def write_known_classifier(folder: Path) -> Path:
    torch.manual_seed(7)
    model = NormalizedClassifier(build_model("cifar_resnet-8", len(KNOWN)), [0.5], [0.5])
    save_classifier(model, folder, "cifar_resnet-8", classes=KNOWN, arguments={"recipe": "baseline", "seed": 1})
    return folder


def test_the_script(tmp_path, monkeypatch):
    data = str(write_dataset(tmp_path / "cifar10"))
    folders = [write_classifier(tmp_path / recipe, recipe, 3) for recipe in ("baseline", "diffaug")]
    known = write_known_classifier(tmp_path / "known")
    options = ["--data", data, "--photos", write_photos(tmp_path / "photos", [1, 963, 281])]
    write_idx(tmp_path / "fashion" / ood_inputs.FASHION_FILE, np.eye(28, dtype=np.uint8)[None] * 255)
    (tmp_path / "red").mkdir()
    PIL.Image.new("RGB", (40, 50), "red").save(tmp_path / "red" / "a.png")
    options += ["--fashion", tmp_path / "fashion", "--far", f"colours={tmp_path / 'red'}", "--limit", 6]
    options += ["--classifier", *folders, known, "--fit-images", 4, "--output", tmp_path / "ood.json"]
    monkeypatch.setattr(sys, "argv", ["", *map(str, options)])
    ood.main()
    records = json.loads((tmp_path / "ood.json").read_text())["records"]
    sizes = {(r["classes"], r["dataset"], r["distance"]): (r["n"], r["n_id"]) for r in records}
    far = {(10, name, "far"): (1, 8) for name in ("colours", "fashion-mnist")}
    far |= {(10, f"{noise} noise", "far"): (6, 8) for noise in ("gaussian", "uniform")}
    unknown = sum(name not in KNOWN for name in sample_images())
    six = {(6, "cifar10", "id"): (8 - unknown, 8 - unknown), (6, "unknown classes", "near"): (unknown, 8 - unknown)}
    assert sizes == {(10, "cifar10", "id"): (8, 8), (10, "photos", "near"): (2, 8), **far, **six}
    assert len(records) == 2 * (1 + 5 * 6 * 3) + 1 + 6 * 3
    check_unknown_classes(records, known, data)
    assert "| unknown classes | baseline |" in (tmp_path / "ood.md").read_text()
    assert (tmp_path / "ood.png").stat().st_size > 20000


def check_unknown_classes(records: list[dict[str, object]], folder: Path, data: str) -> None:
    """MSP's AUROC and the accuracy of the classifier of six classes, from its logits."""
    images = read_hub_set("cifar10", data)
    names = [CLASSES[label] for (label,) in images.labels]
    with torch.no_grad():
        p = load_classifier(folder)(torch.stack(list(images)) / 255).softmax(1)
    inside = torch.tensor([name in KNOWN for name in names])
    value = {(r["method"], r["metric"]): r["value"] for r in records if r["classes"] == 6}
    confidence = p.amax(1)
    assert value["msp", "auroc"] == pytest.approx(100 * auroc(-confidence[inside], -confidence[~inside]), abs=1e-3)
    right = [KNOWN[k] == name for k, name in zip(p.argmax(1).tolist(), names)]
    assert value["", "accuracy"] == pytest.approx(100 * sum(right) / int(inside.sum()), abs=1e-3)


def test_what_the_script_refuses(tmp_path):
    with pytest.raises(ValueError, match="a set must be NAME=DATA. Got 'textures'"):
        ood.parse_named("textures")
    folder = write_known_classifier(tmp_path / "known")
    assert ood_inputs.known_classes(str(folder), CLASSES) == KNOWN
    assert ood_inputs.known_classes("resnet50", CLASSES) == list(CLASSES)
    with pytest.raises(ValueError, match="must know classes of the data only. Got ship"):
        ood_inputs.known_classes(str(folder), [name for name in CLASSES if name != "ship"])
    with pytest.raises(ValueError, match="must have a split train. Got validation"):
        ood_inputs.read_hub("fit", str(write_photos(tmp_path / "photos", [1])), 32, 32, split="train")
