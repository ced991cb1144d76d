"""Every benchmark from its command line to records and pictures, with tiny settings."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor
from torchvision.models import ResNet50_Weights, mobilenet_v3_small

from benchmarks import (
    adaptation,
    certify,
    covariate_shift,
    denoising,
    ensemble_rules,
    entropy_over_time,
    gradients,
    jacobian,
    noise_level,
    pictures,
    throughput,
    train_cifar10,
)
from benchmarks.ood import __main__ as ood
from benchmarks.ood import openood, sets
from diffaug_transforms import ScoreNetwork
from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.images import sample_images
from diffaug_transforms.robustness import DDA, auroc
from diffaug_transforms.robustness.evaluation.sets import HubImages
from diffaug_transforms.score import Denoiser
from diffaug_transforms.transforms import estimate_sigma

from .conftest import CLASSES, write_classifier, write_dataset

KNOWN = ("truck", "bird", "cat", "ship", "frog", "horse")


def values(records: list[dict], *keys: str, **wanted: object) -> dict[object, float]:
    chosen = [r for r in records if all(r.get(key) == value for key, value in wanted.items())]
    return {tuple(r[key] for key in keys) if len(keys) > 1 else r[keys[0]]: r["value"] for r in chosen}


def test_denoising(run, cifar10):
    records = run(denoising, "--data", cifar10, "--limit", 4, "--psnr-images", 4)
    psnr, noisy = (values(records, "timestep", metric="psnr", mode=m) for m in ("unconditional", "noisy input"))
    assert list(psnr) == list(range(50, 901, 50))
    assert all(psnr[t] > noisy[t] for t in (100, 200, 300))
    assert {r["n"] for r in records} == {4}


def test_throughput(run, network_folder, monkeypatch):
    monkeypatch.setattr(throughput, "SIDES", {"cpu": 128})
    monkeypatch.setattr(throughput, "import_seconds", lambda rounds: 0.0)
    options: list[object] = ["--network", network_folder, "--device", "cpu", "--ensemble-images", 1, "--rounds", 2]
    records = run(throughput, *options, "--batch-size", 2)
    speeds = values(records, "method", metric="images_per_second")
    ensembles = {throughput.ALL_VIEWS, throughput.ONE_VIEW}
    assert set(speeds) == {throughput.PLAIN, throughput.AUTHORS, throughput.UNET, throughput.DIFFAUG} | ensembles
    assert {r["batch_size"] for r in records if r["method"] in ensembles} == {1}
    ratios = {r["method"]: r for r in records if r["metric"] == "time_ratio"}
    assert {"DiffAug over bare U-Net", "authors' way over DiffAug", "plain float32 recipe over DiffAug"} < set(ratios)
    assert all(r["value"] > 0 and r["standard_error"] >= 0 for r in ratios.values())
    (product,) = (r for r in records if r["metric"] == "matmul_tflops")
    assert product["side"] == 128
    shares = [r["share_of_operations"] for r in records if "share_of_operations" in r]
    assert len(shares) == 5
    assert 0.5 < sum(shares) <= 1
    assert {r["n"] for r in records} == {2}


def test_training_step(run, monkeypatch):
    """The script's own test trains; here its runs are counted."""
    commands: list[list[str]] = []

    def train(command: list[str], **options: object) -> None:
        commands.append(command)
        folder = Path(command[command.index("--output") + 1])
        folder.mkdir(exist_ok=True)
        (folder / "classifier.json").write_text(json.dumps({"seconds_per_step": len(commands), "peak_bytes": 100}))

    monkeypatch.setattr(subprocess, "run", train)
    records = run(throughput, "training-step", "--rounds", 1, "--batch-size", 2)
    assert values(records, "method", metric="time_ratio")["in the loop"] == 3
    assert len(commands) == 6


def test_train_cifar10_writes_down_what_each_run_cost(tmp_path, run, monkeypatch, cifar10, capsys):
    for name in ("start-0", "augmix-0"):
        write_classifier(tmp_path / "work" / name, "augmix")
    for name in ("prepare", "train"):
        monkeypatch.setattr(train_cifar10, name, lambda *arguments: None)
    options = ["--data", cifar10, "--work", tmp_path / "work", "--seeds", 1, "--recipes", "augmix"]
    start, augmix = run(train_cifar10, *options)
    assert (start["recipe"], augmix["recipe"]) == ("start", "augmix")
    saved = json.loads((tmp_path / "work" / "augmix-0" / "classifier.json").read_text())
    assert (augmix["images_seen"], augmix["seconds"]) == (saved["images"], saved["seconds"])
    assert (augmix["value"], augmix["n"]) == (saved["test_accuracy"], 8)

    (tmp_path / "work" / "start-0").rename(tmp_path / "shared")
    assert run(train_cifar10, *options, "--start", tmp_path / "shared") == [start, augmix]
    with pytest.raises(SystemExit):
        run(train_cifar10, *options, "--start", tmp_path / "shared", "--known", 6)
    assert "leave out --start" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--start must be a folder of examples/train_classifier.py. Got .*missing"):
        run(train_cifar10, *options, "--start", tmp_path / "missing")


def test_covariate_shift_resumes_and_two_processes_say_what_one_says(
    tmp_path, run, cifar10, classifiers, network_folder
):
    options: list[object] = ["--dataset", "cifar10-c", "--data", cifar10, "--network", network_folder, "--limit", 4]
    options += ["--corruptions", "fog", "contrast", "--batch-size", 3, "--keep-probabilities"]
    options += ["--classifier", *classifiers, "--work", tmp_path / "work"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["benchmarks.covariate_shift", *map(str, options), "--output", str(tmp_path / "two.json")]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    two = json.loads((tmp_path / "two.json").read_text())["records"]
    assert {r["corruption"] for r in two} == {"clean", "fog", "contrast", "all"}
    assert {r["mode"] for r in two} == {"default", "de", "dda", "dda-se", "view"}
    assert {r["n"] for r in two} == {4}
    part = tmp_path / "work" / "cifar10-c" / "fog-5" / "records.pt"
    kept = torch.load(part)
    kept["result"][0]["value"] = 12345.0
    torch.save(kept, part)
    (tmp_path / "work" / "cifar10-c" / "contrast-5" / "records.pt").unlink()
    one = run(covariate_shift, *options)  # fog and clean are kept, contrast is judged anew, on DDA's kept images
    place = [r["value"] for r in one].index(12345.0)
    one[place]["value"] = two[place]["value"]
    assert sorted(map(json.dumps, one)) == sorted(map(json.dumps, two))
    assert (tmp_path / "out.png").stat().st_size > 5000
    records = run(ensemble_rules, "--work", tmp_path / "work")
    assert {(r["corruption"], r["recipe"], r["n"]) for r in records} == {
        (part, recipe, n) for part, n in (("clean", 4), ("all", 8)) for recipe in ("baseline", "diffaug")
    }
    assert values(records, "recipe", method="anytime, exact", metric="same_answers") == {
        "baseline": 100,
        "diffaug": 100,
    }


def test_covariate_shift_with_given_timesteps_on_every_second_image(
    tmp_path, run, cifar10, classifiers, network_folder
):
    arguments: list[object] = ["--dataset", "cifar10", "--data", cifar10, "--work", tmp_path / "work", "--every", 2]
    arguments += ["--network", network_folder, "--modes", "default", "de", "dda", "--timesteps", "0,30,30"]
    arguments += ["--classifier", classifiers[0]]
    records = run(covariate_shift, *arguments)
    assert {r["mode"] for r in records} == {"default", "de", "view"}  # DDA has a start of its own
    assert {r["n"] for r in records} == {4}
    assert {r["timesteps"] for r in records if r["mode"] == "de"} == {"0,30,30"}
    assert {r["timestep"] for r in records if r["mode"] == "view"} == {0, 30}
    with pytest.raises(SystemExit):
        run(covariate_shift, *arguments, "--timesteps", "0..30")
    records = run(covariate_shift, *arguments, "--modes", "default", "purify", "purify-se")
    assert {r["mode"] for r in records} == {"default", "purify", "purify-se"}


def test_covariate_shift_with_tiny_imagenet(tmp_path, run, classifiers):
    """The network has no size of its own, so its timesteps are those for images of 64 pixels."""
    data = write_dataset(tmp_path, side=64)
    arguments: list[object] = ["--dataset", "tiny-imagenet-c", "--data", data, "--work", tmp_path / "work"]
    arguments += ["--network", "photos", "--modes", "default", "de", "anytime", "purify", "--limit", 1]
    arguments += ["--corruptions", "fog", "--timesteps", "network", "0,30", "--classifier", classifiers[0]]
    records = run(covariate_shift, *arguments)
    assert {(r["dataset"], r["corruption"]) for r in records} == {("tiny-imagenet-c", c) for c in ("clean", "fog")}
    views = {r["timestep"] for r in records if r["mode"] == "view" and r["timesteps"] == "network"}
    assert views == {0, 9, 22, 36, 52, 69, 91, 116, 147, 185}  # the paper's S, matched to 64 pixels
    assert {r["timesteps"] for r in records if r["mode"] == "anytime"} == {"network", "0,30"}


def test_covariate_shift_with_files_of_imagenet(tmp_path, run, schedule, monkeypatch):
    options: dict[str, Any] = {"norm_num_groups": 4, "layers_per_block": 1, "add_attention": False}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=256, block_out_channels=(8, 8), **blocks, **options)
    ScoreNetwork(unet, schedule).save_pretrained(tmp_path / "network")
    (tmp_path / "val" / "n01440764").mkdir(parents=True)
    sample_images()["cat"].resize((300, 300)).save(tmp_path / "val" / "n01440764" / "a.JPEG")
    weights = tmp_path / "mine.pth"
    torch.save(mobilenet_v3_small().state_dict(), weights)
    arguments: list[object] = ["--dataset", "imagenet-c", "--data", tmp_path / "val", "--work", tmp_path / "work"]
    arguments += ["--network", tmp_path / "network", "--modes", "default", "de", "--corruptions", "contrast"]
    records = run(covariate_shift, *arguments, "--classifier", f"mobilenet_v3_small@{weights}")
    assert {r["corruption"] for r in records} == {"clean", "contrast"}
    assert {r["timestep"] for r in records if r["mode"] == "view"} == set(range(0, 451, 50))  # the paper's own S
    assert {(r["model"], r["recipe"]) for r in records} == {("mobilenet_v3_small", "mine")}
    adapted = []

    def adapt(dda: Any, images: Tensor, noise: Tensor) -> Tensor:
        adapted.append(tuple(images.shape[-2:]))
        return images

    monkeypatch.setattr(DDA, "adapt", adapt)
    arguments = [part if part != "de" else "dda" for part in arguments]
    records = run(covariate_shift, *arguments, "--resize", 256, "--classifier", f"mobilenet_v3_small@{weights}")
    assert adapted == [(256, 256)] * 2  # the whole images, of which the classifier sees the centre
    assert {r["resize"] for r in records} == {256}


def test_adaptation(run, cifar10, classifiers, network_folder, monkeypatch):
    """Each method runs once, to count its calls. The harness's own test times."""
    monkeypatch.setattr(adaptation, "time_interleaved", lambda methods, *rest: {name: [1.0] for name in methods})
    options: list[object] = ["--data", cifar10, "--network", network_folder, "--classifier", classifiers[0]]
    records = run(adaptation, "speed", *options, "--images", 1, "--rounds", 1)
    calls = values(records, "method", metric="network_calls")
    assert (calls["default"], calls["de"], calls["dda-se"]) == (0, 8, 50)  # at 16 pixels two of ten timesteps are 0
    assert values(records, "method", metric="backward_calls")["dda-se"] == 50
    assert values(records, "method", metric="ratio_to_de")["de"] == 1


def test_dda_guide(run, cifar10, monkeypatch):
    monkeypatch.setattr(adaptation, "FIRST", 0)
    records = run(adaptation, "guide", "--data", cifar10, "--images", 2, "--downscales", 2, "--scales", 2)
    assert 0 < values(records, "guidance_scale")[2] < 0.2


def test_entropy_falls_short_of_the_uniform_limit(run, tmp_path, cifar10, classifiers):
    records = run(entropy_over_time, "--data", cifar10, "--classifier", *classifiers, "--images", 4, "--every", 500)
    assert sorted({r["timestep"] for r in records}) == [0, 500, 999]
    entropies = values(records, "recipe", "timestep", metric="entropy")
    assert all(0 < value <= 2.3026 for value in entropies.values())
    assert len(entropies) == 6
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_certify_resumes_and_extends(run, tmp_path, cifar10, classifiers, monkeypatch):
    options: list[object] = ["--data", cifar10, "--classifier", *classifiers, "--sigmas", 0.25, 1, "--n0", 4, "--n", 8]
    options += ["--failure-probability", 0.3, "--work", tmp_path / "work"]
    first = run(certify, *options, "--images", 1)
    assert {(r["recipe"], r["sigma"]) for r in first} == {(n, s) for n in ("baseline", "diffaug") for s in (0.25, 1.0)}
    assert (tmp_path / "out.png").stat().st_size > 10_000
    count_votes, counted = certify.count_votes, []
    monkeypatch.setattr(certify, "count_votes", lambda *a: counted.append(a) or count_votes(*a))
    second = run(certify, *options, "--images", 2)
    assert second[:4] == first
    assert len(second) == 8
    assert len(counted) == 4  # two sigmas of the new image, choosing and bounding


def test_certify_leaves_out_sigmas_that_a_network_does_not_know(capsys, schedule):
    denoiser = Denoiser(ScoreNetwork.from_denoiser(lambda x, sigma: x, image_size=8, sigma_range=(0.01, 0.6)))
    assert certify.reached_sigmas("short", denoiser, [0.25, 0.5]) == [0.25]
    assert capsys.readouterr().out.startswith("short is left out at sigma 0.5: sigma must be at most 0.")


def test_certify_compares_networks_on_every_second_image(run, tmp_path, cifar10, classifiers):
    options: list[object] = ["--data", cifar10, "--classifier", classifiers[0], "--sigmas", 0.25, "--n0", 4, "--n", 8]
    options += ["--failure-probability", 0.3, "--work", tmp_path / "work", "--every", 2, "--images", 2]
    records = run(certify, *options, "--network", "cifar10", "photos")
    assert [r["network"] for r in records] == ["cifar10", "cifar10", "photos", "photos"]
    assert [r["image"] for r in records[:2]] == [r["image"] for r in records[2:]]
    assert all(r["image"] % 2 == 0 for r in records)
    assert run(certify, *options, "--network", "photos") == records[2:]


def test_certify_coverage(run):
    records = run(certify, "coverage", "--simulations", 100, "--n", 50)
    assert {r["metric"] for r in records} == {"failed", "abstained", "radius_ratio"}


def test_gradients(run, tmp_path, cifar10, classifiers, network_folder):
    options: list[object] = ["--data", cifar10, "--network", network_folder, "--classifier", *classifiers]
    records = run(gradients, *options, "--images", 2, "--timesteps", 20, 300, "--pictures", 1)
    aligned = {"alignment", "cosine", "centred_cosine"}
    chance = gradients.CHANCE["recipe"]
    through = [*((r, m) for r in ("baseline", "diffaug") for m in ("noisy", "partial", "total")), (chance, "total")]
    expected = {(r, "alone", 0, m) for r in ("baseline", "diffaug", chance) for m in aligned}
    expected |= {(r, "alone", t, "score_cosine") for r in ("baseline", "diffaug", chance) for t in (20, 300)}
    expected |= {(*who, t, m) for who in through for t in (20, 300) for m in aligned | {"score_cosine"}}
    assert {(r["recipe"], r["mode"], r["timestep"], r["metric"]) for r in records} == expected
    assert all(-1 <= r["value"] <= 1 for r in records if r["metric"].endswith("cosine"))
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_jacobian(run, tmp_path, cifar10, network_folder):
    options = ["--data", cifar10, "--network", network_folder, "--images", 2, "--timesteps", 300, "--vectors", 1]
    options += ["--leading-images", 2, "--iterations", 1, "--pictures", 1, "--picture-timesteps", 100]
    records = run(jacobian, *options)
    assert {(r["timestep"], r["mode"], r["metric"]) for r in records} == {
        *((300, "random", metric) for metric in ("asymmetry", "predicted_mse", "mse", "mse_ratio")),
        *((300, "leading", metric) for metric in ("asymmetry", "singular_value")),
    }
    assert (tmp_path / "out.png").stat().st_size > 5000


@pytest.mark.parametrize("what", ["steps", "flow", "views", "journey"])
def test_pictures(what, tmp_path, monkeypatch, cifar10):
    options = [what, "--data", cifar10, "--index", 3, "--output", tmp_path / "a.png"]
    monkeypatch.setattr(sys, "argv", ["", *map(str, options)])
    pictures.main()
    assert (tmp_path / "a.png").stat().st_size > 10_000


def write_fashion(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    header = b"\x00\x00\x08\x03" + np.array(images.shape, ">u4").tobytes()
    (folder / sets.FASHION_FILE).write_bytes(header + images.tobytes())
    return folder


def write_photos(folder: Path, labels: list[int]) -> Path:
    """ImageNet in the Hub's layout: the sample images, enlarged to 80x64."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    photos = [image.resize((80, 64)) for image in sample_images().values()][: len(labels)]
    rows = datasets.Dataset.from_dict({"image": photos, "label": labels}, features=features)
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


def test_ood(tmp_path, run, cifar10, classifiers):
    known = write_classifier(tmp_path / "known", "baseline", 1, classes=KNOWN)
    options: list[object] = ["--data", cifar10, "--photos", write_photos(tmp_path / "photos", [1, 963, 281])]
    (tmp_path / "red").mkdir()
    PIL.Image.new("RGB", (40, 50), "red").save(tmp_path / "red" / "a.png")
    fashion = write_fashion(tmp_path / "fashion", np.eye(28, dtype=np.uint8)[None] * 255)
    options += ["--fashion", fashion, "--far", f"colours={tmp_path / 'red'}", "--limit", 6]
    records = run(ood, *options, "--classifier", *classifiers, known, "--fit-images", 4)
    sizes = {(r["classes"], r["dataset"], r["distance"]): (r["n"], r["n_id"]) for r in records}
    far = {(10, name, "far"): (1, 8) for name in ("colours", "fashion-mnist")}
    far |= {(10, f"{noise} noise", "far"): (6, 8) for noise in ("gaussian", "uniform")}
    unknown = sum(name not in KNOWN for name in sample_images())
    name = cifar10.name
    six = {(6, name, "id"): (8 - unknown, 8 - unknown), (6, "unknown classes", "near"): (unknown, 8 - unknown)}
    assert sizes == {(10, name, "id"): (8, 8), (10, "photos", "near"): (2, 8), **far, **six}
    assert len(records) == 2 * (1 + 5 * 6 * 3) + 1 + 6 * 3
    check_unknown_classes(records, known, cifar10)
    assert (tmp_path / "out.png").stat().st_size > 20000


def check_unknown_classes(records: list[dict], folder: Path, data: Path) -> None:
    """MSP's AUROC and the accuracy of the classifier of six classes, from its logits."""
    images = HubImages(str(data))
    names = [images.classes[label] for label in images.targets]
    with torch.no_grad():
        p = load_classifier(folder)(torch.stack([image for image, _ in images]) / 255).softmax(1)
    inside = torch.tensor([name in KNOWN for name in names])
    value = values(records, "method", "metric", classes=6)
    assert value["msp", "auroc"] == pytest.approx(100 * auroc(-p.amax(1)[inside], -p.amax(1)[~inside]), abs=1e-3)
    right = [KNOWN[k] == name for k, name in zip(p.argmax(1).tolist(), names)]
    assert value["", "accuracy"] == pytest.approx(100 * sum(right) / int(inside.sum()), abs=1e-3)


def test_ood_degraded(tmp_path, run, cifar10, classifiers):
    fashion = write_fashion(tmp_path / "fashion", np.eye(28, dtype=np.uint8)[None] * 255)
    options: list[object] = ["--data", cifar10, "--photos", write_photos(tmp_path / "photos", [1, 963])]
    records = run(ood, "degraded", *options, "--fashion", fashion, "--classifier", *classifiers)
    assert len(records) == 2 * 2 * 6
    assert {(r["dataset"], r["n"], r["n_id"]) for r in records} == {("photos", 2, 8), ("fashion-mnist", 1, 8)}


def test_degradations():
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, :, 16:] = 1
    done = {name: degrade(images) for name, degrade in sets.degradations(seed=0).items()}
    assert torch.equal(done["as it is"], images)
    assert done["half contrast"].unique().tolist() == [0.25, 0.75]
    assert torch.equal(done["inverted"], images.flip(3))
    noise = done["noise .1"] - images
    assert float(noise[:, :, :, :16].mean()) == pytest.approx(0.1 / (2 * torch.pi) ** 0.5, abs=0.002)  # clipped at 0
    # Half of a Gaussian with sigma 1 lies behind its own pixel's edge: 0.5 + 0.5 * erf(0.5 / sqrt(2)) = 0.69.
    assert float(done["blur 1"][0, 0, 16, 16]) == pytest.approx(0.69, abs=0.02)
    assert done["blur .5"][0, 0, 16, 16] > done["blur 1"][0, 0, 16, 16]


def test_sets_out_of_distribution(tmp_path):
    images = np.full((2, 28, 28), 200, np.uint8)
    images[1, :, 14:] = 0
    data = sets.read_fashion(write_fashion(tmp_path, images), 32)
    assert (len(data), data[0][0].shape, data[0][0].unique().tolist()) == (2, (3, 32, 32), [200])
    assert (data[1][0][0, 5, [0, 12, 20, 31]]).tolist() == [200, 200, 0, 0]
    photos = write_photos(tmp_path / "photos", [1, 404, 963, 281])  # goldfish, airliner, pizza, tabby
    assert [label for _, label in sets.read_photos(str(photos), 32, 32)] == [1, 963]
    sharp, soft = (sets.read_photos(str(photos), 32, 32, name)[0][0].float().std() for name in ("lanczos", "bilinear"))
    assert sharp > soft
    gaussian, uniform = sets.noise_sets(50, 16, seed=1)
    spread = [float(noise.pixels.float().std()) / 255 for noise in (gaussian, uniform)]
    # 4.6 % of the Gaussian's values are clipped, two deviations out; a uniform one's deviation is 1 / sqrt(12).
    assert spread == pytest.approx([0.24, 0.289], abs=0.005)


def test_classes_that_cifar10_lacks():
    names = ResNet50_Weights.DEFAULT.meta["categories"]
    gone = sets.overlapping_classes()
    left_out = "airliner,warplane,cock,king penguin,tabby,lion,gazelle,Chihuahua,dhole,Arctic fox,bullfrog"
    left_out += ",sorrel,zebra,container ship,canoe,yawl,jeep,school bus,minivan,trailer truck,fire engine,tank"
    assert {name for name in left_out.split(",") if names.index(name) not in gone} == set()
    kept = "goldfish,axolotl,common newt,brown bear,ox,ram,Arabian camel,weasel,lesser panda,steam locomotive,plane"
    kept += ",balloon,mountain bike,moped,pier,teddy,pizza,volcano,hen-of-the-woods,crane,bathtub"
    assert {name for name in kept.split(",") if names.index(name) in gone} == set()


def tiny_imagenet_labels() -> list[int]:
    """A class for each val_N.JPEG, 50 of each class, with the images that OpenOOD treats apart in classes of theirs."""
    labels = {number: label for label, kept in openood.KEPT_OF_CLASS.items() for number in kept}
    labels |= dict.fromkeys(openood.LEFT_OUT, 0)
    free = [label for label in range(200) for _ in range(50 - list(labels.values()).count(label))]
    return [labels[n] if n in labels else free.pop() for n in range(10000)]


def write_tiny_imagenet(folder: Path, names: list[str], labels: list[int]) -> str:
    import datasets

    image = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), "red").save(image, "JPEG")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": image.getvalue(), "path": name} for name in names], "label": labels}
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "validation-00000-of-00001.parquet")
    return str(folder)


def test_openoods_part_of_tiny_imagenet(tmp_path):
    """156 whole classes without 15 images, and 8 images of four classes."""
    labels, names = tiny_imagenet_labels(), [f"val_{n}.JPEG" for n in range(10000)]
    data = sets.read_set(f"openood:{write_tiny_imagenet(tmp_path / 'a', names, labels)}", 32, 32)
    assert len(data) == 156 * 50 - 15 + 8 == 7793
    assert len({labels[i] for i in data.indices}) == 160
    assert data[0][0].shape == (3, 32, 32)
    kept = {number for numbers in openood.KEPT_OF_CLASS.values() for number in numbers}
    assert kept < set(data.indices)
    assert not openood.LEFT_OUT & set(data.indices)
    for got, (other, classes) in {
        "7,793 images. Got": (names, [199 - label for label in labels]),
        "Got 10000, the first of them 'a.jpg'": (["a.jpg", *names[1:]], labels),
        "Got 9999, the first of them 'val_1.JPEG'": (names[1:], labels[1:]),
    }.items():
        with pytest.raises(ValueError, match=got):
            sets.read_set(f"openood:{write_tiny_imagenet(tmp_path / str(len(got)), other, classes)}", 32, 32)


@pytest.mark.parametrize("module", [certify, ood])
def test_missing_arguments_are_named(module, monkeypatch, capsys):
    arguments = ["degraded", "--classifier", "a"] if module is ood else []
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    with pytest.raises(SystemExit):
        module.parse_arguments()
    assert "need" in capsys.readouterr().err


def test_what_ood_refuses(tmp_path, cifar10):
    with pytest.raises(ValueError, match="a set must be NAME=DATA. Got 'textures'"):
        sets.parse_named("textures")
    folder = write_classifier(tmp_path / "known", "baseline", classes=KNOWN)
    assert sets.known_classes(str(folder), CLASSES) == KNOWN
    assert sets.known_classes("resnet50", CLASSES) == CLASSES
    data = HubImages(str(cifar10))
    with pytest.raises(ValueError, match="must know classes of the data only. Got pony"):
        sets.split_known(data, ["cat", "pony"])
    with pytest.raises(ValueError, match="at least one image. Got none in unknown classes"):
        sets.load("unknown classes", "near", sets.split_known(data, CLASSES)[1])


def test_noise_level(run, cifar10):
    pytest.importorskip("pywt")
    records = run(noise_level, "--data", cifar10, "--images", 3, "--gate-images", 5)
    found = values(records, "quantile", metric="estimated_sigma_quantile")
    train = HubImages(str(cifar10), split="train")
    sigmas = torch.cat([estimate_sigma(train[i][0]) for i in range(5)])
    assert found == {q: pytest.approx(sigmas.quantile(q).item(), abs=1e-5) for q in noise_level.QUANTILES}
    records = [record for record in records if "noise" in record]
    estimates = {r["method"]: r for r in records if (r["noise"], r["sigma"]) == ("Gaussian", 0.2)}
    assert set(estimates) == set(noise_level.METHODS)
    mine = values(records, "sigma", method="estimate_sigma", metric="estimated_sigma", noise="Gaussian")
    assert list(mine) == sorted(mine) == list(noise_level.SIGMAS)
    assert list(mine.values()) == sorted(mine.values())
    errors = values(records, "method", metric="root_mean_square_error", noise="5 % of values", sigma=0.2)
    assert errors["estimate_sigma"] < errors["scikit-image"]
