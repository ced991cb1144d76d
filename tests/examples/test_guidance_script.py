"""examples/train_guidance_classifier.py as a user runs it: a noisy classifier, then a denoise-augmented one from it."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import PIL.Image
import pytest
import torch
import train_guidance_classifier as script
from accelerate.state import AcceleratorState

from diffaug_transforms import load_score_network
from diffaug_transforms.guidance import DenoiseAugmentedClassifier, NoisyClassifier, load_guidance_classifier
from tests.contracts import images as random_images
from tests.examples.training import run
from tests.guidance.guidance_encoders import tiny_encoder

SCRIPT = "train_guidance_classifier.py"
ENCODER = ["--widths", "32", "32", "32", "--attention-resolutions"]
CLASSES = ("across", "down")
SEVEN = ["a", "b", "c", "d", "e", "f", "g"]
OPTIONS = ["--batch-size", "8", "--mixed-precision", "no"]


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes across and down, which can be told apart until the noise is about as large as the image."""
    root = tmp_path_factory.mktemp("images")
    for split, number in (("train", 16), ("test", 12)):
        for label in CLASSES:
            (root / split / label).mkdir(parents=True)
            for i in range(number):
                row = (255 * ((np.arange(32) + i) // 4 % 2)).astype(np.uint8)
                picture = np.tile(row, (32, 1))
                picture = picture if label == "down" else picture.T
                PIL.Image.fromarray(picture).save(root / split / label / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def noisy(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained noisy classifier."""
    folder = tmp_path_factory.mktemp("runs") / "noisy"
    run(SCRIPT, "--data", data, "--output", folder, "--steps", 40, "--lr", 5e-3, *ENCODER, *OPTIONS)
    return folder


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run the script in this process, which saves the time that a new one takes to start."""

    def call(*options: object) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, options)])
        script.main()

    yield call
    AcceleratorState._reset_state(reset_partial_state=True)


def metadata_of(folder: Path) -> dict:
    return json.loads((folder / "guidance_classifier.json").read_text())


def percent_by_hand(classifier: torch.nn.Module, data: Path) -> dict[str, float]:
    """The paper's protocol: each test image at one time, drawn uniformly by a seed of the image's own."""
    alphas_cumprod = load_score_network("cifar10").schedule.alphas_cumprod
    right, times = [], []
    paths = sorted((data / "test").glob("*/*.png"))  # by class, then by number
    for i, path in enumerate(paths):
        generator = torch.Generator().manual_seed(hash((0, i)) % 2**63)
        t = torch.randint(1000, (1,), generator=generator)
        x_0 = torch.from_numpy(np.array(PIL.Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1
        noise = torch.randn(1, 3, 32, 32, generator=generator)
        x_t = alphas_cumprod[t].sqrt() * x_0 + (1 - alphas_cumprod[t]).sqrt() * noise
        right.append(int(classifier(x_t, t).argmax()) == int(path.parent.name == "down"))
        times.append(int(t))
    quarters = {f"test_accuracy_q{q}": [r for r, t in zip(right, times) if t // 250 == q] for q in range(4)}
    return {name: 100 * float(np.mean(part)) for name, part in {"test_accuracy": right, **quarters}.items()}


def test_a_noisy_classifier_learns_and_its_accuracy_is_that_at_one_uniform_time(data, noisy):
    metadata = metadata_of(noisy)
    assert metadata["classes"] == list(CLASSES)
    assert metadata["images"] == 320
    assert metadata["seconds"] > 0
    assert metadata["arguments"]["lr"] == 5e-3
    assert min(metadata["test_accuracy_q0"], metadata["test_accuracy_q1"]) > 80
    assert list((noisy / "logs").rglob("events*"))
    with torch.inference_mode():
        expected = percent_by_hand(load_guidance_classifier(noisy), data)
    assert {name: metadata[name] for name in expected} == pytest.approx(expected)


def test_an_interrupted_denoise_augmented_run_resumes_to_the_same_classifier(
    data, noisy, tmp_path, run_here, monkeypatch
):
    form = ["--form", "denoise-augmented", "--init", noisy]
    options = ["--data", data, *form, "--steps", 4, "--checkpoint-every", 2, *OPTIONS]
    run_here("--output", tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        patch.setattr(script, "cross_entropy", Mock(wraps=script.cross_entropy, side_effect=[DEFAULT] * 3 + [Stop]))
        with pytest.raises(Stop):
            run_here("--output", tmp_path / "stopped", *options)
    assert not (tmp_path / "stopped" / "guidance_classifier.json").exists()
    with monkeypatch.context() as patch:
        steps = Mock(wraps=script.cross_entropy)
        patch.setattr(script, "cross_entropy", steps)
        run_here("--output", tmp_path / "stopped", *options)
    assert steps.call_count == 2
    weights = [load_guidance_classifier(tmp_path / name).encoder.state_dict() for name in ("whole", "stopped")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=1e-6)
    assert not torch.equal(weights[0]["conv_in.weight"], load_guidance_classifier(noisy).encoder.conv_in.weight)

    saved = load_guidance_classifier(tmp_path / "whole")
    assert saved.through_network
    classifier = DenoiseAugmentedClassifier(saved.encoder, "cifar10", dtype=torch.float32)
    with torch.inference_mode():
        expected = percent_by_hand(classifier, data)
    metadata = metadata_of(tmp_path / "whole")
    assert {name: metadata[name] for name in expected} == pytest.approx(expected)
    assert metadata["images"] == 32


def test_training_in_memory_resumes_with_its_curve(data, tmp_path, run_here, monkeypatch):
    options = ["--data", data, "--in-memory", "--steps", 4, "--test-every", 1, "--checkpoint-every", 2]
    options += [*ENCODER, *OPTIONS]
    run_here("--output", tmp_path / "whole", *options)
    whole = metadata_of(tmp_path / "whole")
    assert [point["step"] for point in whole["curve"]] == [1, 2, 3, 4]
    assert {name: whole[name] for name in whole["curve"][3] if name != "step"}.items() <= whole["curve"][3].items()
    with torch.inference_mode():
        expected = percent_by_hand(load_guidance_classifier(tmp_path / "whole"), data)
    assert {name: whole[name] for name in expected} == pytest.approx(expected)
    with monkeypatch.context() as patch:
        patch.setattr(script, "cross_entropy", Mock(wraps=script.cross_entropy, side_effect=[DEFAULT] * 3 + [Stop]))
        with pytest.raises(Stop):
            run_here("--output", tmp_path / "stopped", *options)
    run_here("--output", tmp_path / "stopped", *options)
    assert metadata_of(tmp_path / "stopped")["curve"] == whole["curve"]


def test_options_that_exclude_each_other(data, tmp_path, run_here, capsys):
    options = ["--data", data, "--output", tmp_path / "a", *ENCODER, *OPTIONS]
    with pytest.raises(SystemExit):
        run_here(*options, "--in-memory", "--skip-unreadable")
    assert "in-memory and skip-unreadable exclude each other" in capsys.readouterr().err
    with pytest.raises(ValueError, match="in-memory is for images of up to 64 pixels. Got a classifier for 80"):
        run_here(*options, "--in-memory", "--size", 80)


def test_a_start_is_of_the_form_that_is_wanted(tmp_path):
    encoder = tiny_encoder()
    NoisyClassifier(encoder).save_pretrained(tmp_path / "noisy")
    augmented = script.start_from(tmp_path / "noisy", "denoise-augmented", SEVEN)
    x_t, timesteps = random_images(16) * 2 - 1, torch.arange(0, 1000, 250)
    assert augmented.training
    assert torch.allclose(augmented.eval()(x_t, timesteps, x_t), encoder(x_t, timesteps), atol=0.05)
    DenoiseAugmentedClassifier(augmented).save_pretrained(tmp_path / "augmented")
    again = script.start_from(tmp_path / "augmented", "denoise-augmented", SEVEN)
    assert torch.equal(again.conv_in_denoised.weight, augmented.conv_in_denoised.weight)
    with pytest.raises(ValueError, match="init must be a noisy classifier for the noisy form"):
        script.start_from(tmp_path / "augmented", "noisy", SEVEN)
    NoisyClassifier(encoder, classes=SEVEN[::-1]).save_pretrained(tmp_path / "reversed")
    with pytest.raises(ValueError, match="init must have the data's classes, a, b, .* Got g, f, "):
        script.start_from(tmp_path / "reversed", "noisy", SEVEN)
    with pytest.raises(ValueError, match="init must know the data's 10 classes. Got 7"):
        script.start_from(tmp_path / "noisy", "noisy", [*SEVEN, "h", "i", "j"])


@pytest.mark.parametrize("downsample", ["conv", "resnet"])
def test_the_encoder_has_the_shape_asked_for(downsample):
    shape = {"widths": [32, 64], "blocks": 2, "attention_resolutions": [8], "head_width": 16}
    encoder = script.build_encoder(Namespace(size=16, downsample=downsample, form="noisy", init=None, **shape), 5)
    plain = {"conv": "DownBlock2D", "resnet": "ResnetDownsampleBlock2D"}[downsample]
    assert encoder.config["down_block_types"] == [plain, "AttnDownBlock2D"]
    assert len(encoder.down_blocks[1].resnets) == 2
    assert encoder.pool.heads == 4
    assert encoder(torch.zeros(2, 3, 16, 16), torch.tensor([0, 9])).shape == (2, 5)


def test_annealing_by_hand():
    assert [script.learning_rate_factor(k / 4, "linear") for k in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    cosine = [script.learning_rate_factor(k / 4, "cosine") for k in range(5)]
    assert cosine == pytest.approx([1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5, 0])
