"""The page's computations and errors, without a page. And the command's errors."""

from __future__ import annotations

import importlib.util
import socket
import struct
import zlib
from email.message import Message

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAugEnsemble, Purify, cli
from diffaug_transforms.app import imagenet, markup, pictures, results, server
from diffaug_transforms.app import models as models_module
from diffaug_transforms.app.compute import (
    MAX_SEED,
    Setting,
    classify,
    denoise,
    prepare,
    purify,
    scales,
    size_warning,
)
from diffaug_transforms.app.models import Models
from diffaug_transforms.app.pictures import fit_picture, read_picture, sample_class
from diffaug_transforms.images import ASSETS, sample_images
from diffaug_transforms.score import Denoiser, views_over_time

CAT = ASSETS / "samples" / "cat.png"
PHOTO = ASSETS / "samples" / "photo.jpg"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(["cifar10-diffaug", "cifar10-baseline"])


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = struct.pack(">I", 1000) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + pixels


# Reading pictures


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("notes.png", b"dear diary", "a picture must be a BMP, .* or WEBP file. Got notes.png, which is none of these"),
        ("empty.png", b"", "Got empty.png, which is none of these"),
        ("figure.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "Got figure.eps, which is none of these"),
        ("half.png", CAT.read_bytes()[:1000], "half.png cannot be read: "),
        ("bomb.png", png_header(20_000, 20_000), "must have at most 50 million pixels. Got far more"),
        ("large.png", png_header(8000, 7000), "must have at most 50 million pixels. Got 8000 x 7000"),
    ],
)
def test_refused_files(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_picture(tmp_path / name)


def test_large_files_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 2**20)
    (tmp_path / "large.png").write_bytes(bytes(3 * 2**20 // 2))
    with pytest.raises(ValueError, match="a picture's file must have at most 1 MiB. Got 1.5 MiB"):
        read_picture(tmp_path / "large.png")


def test_modes(tmp_path):
    """Each file shows the same orange, as far as its mode can hold it."""
    orange = PIL.Image.new("RGB", (40, 30), (240, 120, 0))
    orange.save(tmp_path / "rgb.png")
    orange.convert("RGBA").save(tmp_path / "rgba.png")
    orange.quantize(2).save(tmp_path / "palette.png")
    orange.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    orange.save(tmp_path / "moving.gif", save_all=True, append_images=[PIL.Image.new("RGB", (40, 30), "blue")])
    for path in sorted(tmp_path.iterdir()):
        image = read_picture(path)
        assert (image.mode, image.size) == ("RGB", (40, 30)), path.name
        assert np.abs(np.asarray(image).astype(int) - (240, 120, 0)).max() <= 4, path.name


def test_unusual_pixels(tmp_path):
    """16 bits are scaled, transparent parts are white, and floating point pixels have a known range."""
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / "grey16.png")
    assert np.asarray(read_picture(tmp_path / "grey16.png"))[0, :, 0].tolist() == [0, 1, 128, 255]
    PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").getextrema() == ((255, 255),) * 3
    PIL.Image.new("F", (8, 8), 2.5).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float.tif cannot be read: floating point pixels must be in \[0, 1\]"):
        read_picture(tmp_path / "float.tif")


def test_pictures_are_upright(tmp_path):
    """EXIF orientation 6: the camera lay on its side, and the file's left edge is the picture's top."""
    image = PIL.Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_picture(tmp_path / "turned.png")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (0, 0, 255)
    assert upright.getpixel((10, 35)) == (255, 0, 0)


def test_fit_picture():
    image = PIL.Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    assert fit_picture(image, 32).amin((1, 2)).tolist() == fit_picture(image, 32).amax((1, 2)).tolist() == [0, 0, 255]
    assert fit_picture(PIL.Image.new("RGB", (1_000_000, 1)), 32).shape == (3, 32, 32)
    cat = sample_images()["cat"]
    assert torch.equal(fit_picture(cat, 32), F.pil_to_tensor(cat))


def test_a_sample_is_known_by_its_bytes(tmp_path):
    (tmp_path / "dog.png").write_bytes(CAT.read_bytes())
    assert sample_class(tmp_path / "dog.png") == "cat"
    PIL.Image.open(CAT).rotate(90).save(tmp_path / "cat.png")
    assert sample_class(tmp_path / "cat.png") is None


# Computing


def test_the_same_seed_gives_the_same(models):
    def run(seed: int) -> list[torch.Tensor]:
        setting = prepare(models, CAT, corruption="gaussian_noise", severity=4, seed=seed)
        purified = purify(models, setting)
        answer = classify(models, setting, purified.image)
        pictures = [setting.picture, purified.image, *denoise(models, setting, 300), answer.views]
        return [*pictures, answer.default, answer.purified, answer.de]

    first, again, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))


def test_denoise_is_the_package_s(models):
    """The pictures of `diffaug show` with the same seed."""
    setting = prepare(models, CAT, seed=5)
    diffused, denoised = views_over_time(Denoiser("cifar10"), setting.picture[None] / 255, [200], seed=5)
    mine = denoise(models, setting, 200)
    torch.testing.assert_close(mine[0], diffused[0, 0])
    torch.testing.assert_close(mine[1], denoised[0, 0])
    signal, noise = scales(models, setting, 200)
    assert signal**2 + noise**2 == pytest.approx(1)


def test_classify_is_the_ensemble(models):
    setting = prepare(models, CAT, classifier="cifar10-baseline", seed=7)
    other = torch.rand(3, 32, 32)
    answer = classify(models, setting, other)
    ensemble = DiffAugEnsemble(models.classifier("cifar10-baseline").module, "cifar10")
    noise = torch.randn(9, 1, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    image = setting.picture[None] / 255
    views = ensemble.views(image, noise)
    torch.testing.assert_close(answer.views, views[:, 0])
    logits = ensemble.classify(views)
    torch.testing.assert_close(answer.de, logits.softmax(-1).mean(0)[0])
    torch.testing.assert_close(answer.view_probabilities, logits.softmax(-1)[:, 0])
    torch.testing.assert_close(answer.default, ensemble.classifier(image).softmax(-1)[0])
    torch.testing.assert_close(answer.purified, ensemble.classifier(other[None]).softmax(-1)[0])
    assert answer.timesteps == (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)
    # In bfloat16 a batch of one and a batch of nine round differently.
    torch.testing.assert_close(denoise(models, setting, 3)[1], answer.views[1], rtol=0, atol=2e-3)


def test_purify_is_the_package_s(models):
    noisy = prepare(models, CAT, corruption="gaussian_noise", severity=5)
    found = purify(models, noisy)
    torch.testing.assert_close(found.image, Purify("cifar10")(noisy.picture[None] / 255)[0])
    assert found.is_changed
    assert 0.06 < found.sigma < 0.14
    clean = prepare(models, CAT)
    assert not purify(models, clean).is_changed
    assert torch.equal(purify(models, clean).image, clean.picture / 255)


def test_a_small_picture_and_a_photo_get_what_fits(monkeypatch):
    classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 1000))
    for_photos = {"tiny": imagenet.OpenedClassifier(classifier, size=96)}
    monkeypatch.setattr(models_module, "find_imagenet_classifier", lambda: for_photos)
    models = Models()
    small, photo = prepare(models, CAT), prepare(models, PHOTO)
    assert small[1:] == ("cifar10", "cifar10-diffaug", 0, "cat")
    assert photo[1:] == ("photos", "tiny", 0, None)
    assert photo.picture.shape == (3, 96, 96)
    answer = classify(models, photo, photo.picture / 255)
    assert answer.classes[281] == "tabby"
    assert "knows only 1,000 classes, such as tench, " in results.show_views(photo, answer)
    chosen = prepare(models, PHOTO, classifier="cifar10-diffaug", network="photos")
    assert chosen[1:] == ("photos", "cifar10-diffaug", 0, None)
    assert chosen.picture.shape == (3, 32, 32)


def test_a_photo_without_a_classifier_for_photos(monkeypatch):
    monkeypatch.setattr(models_module, "find_imagenet_classifier", dict)
    models = Models()
    setting = prepare(models, PHOTO)
    assert setting[1:] == ("photos", None, 0, None)
    assert setting.picture.shape == (3, 224, 224)
    assert results.show_steps(models, setting, 100).count("<figure>") == 4


def test_the_network_of_the_command_is_used_if_it_fits(network, tmp_path):
    network.save_pretrained(tmp_path)
    models = Models(network=str(tmp_path))
    near = network.image_size
    assert [models.network_for(side) for side in (near, 2 * near)] == [str(tmp_path)] * 2
    assert models.network_for(224) == "photos"


def test_a_timm_model_in_the_cache_is_found_without_a_connection(monkeypatch, tmp_path):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_model

    name = "test_resnet.r160_in1k"
    save_model(timm.create_model(name), str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(imagenet, "EFFICIENTNETS", ())
    assert imagenet.find_imagenet_classifier() == {}
    monkeypatch.setattr(imagenet, "TIMM_MODELS", ("resnet18.a1_in1k", name))
    found = {f"timm/{name}": str(tmp_path / "model.safetensors")}
    monkeypatch.setattr(imagenet, "try_to_load_from_cache", lambda repo, file: found.get(repo))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (key,) = opened = imagenet.find_imagenet_classifier()
    assert key == f"timm:{name}"
    logits = opened[key].module(torch.rand(1, 3, 64, 64))
    assert imagenet.class_names(opened[key], logits.shape[-1])[0] == "tench"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"corruption": "rain"}, "corruption must be one of .* Got 'rain'"),
        ({"corruption": "fog", "severity": 6}, "severity must be in 1...5. Got 6"),
        ({"seed": -1}, f"seed must be an integer in 0...{MAX_SEED}. Got -1"),
        ({"seed": None}, "Got None"),
        ({"network": "cifar11"}, "Got 'cifar11'. Did you mean 'cifar10'"),
        ({"classifier": "/etc"}, "classifier must be one of cifar10-diffaug, cifar10-baseline.* Got '/etc'"),
    ],
)
def test_choices_are_checked(models, choice, message):
    with pytest.raises(ValueError, match=message):
        prepare(models, CAT, **choice)


def test_timesteps_are_checked(models):
    with pytest.raises(ValueError, match=r"timesteps must be in 0\.\.\.999 for this network. Got 1000"):
        denoise(models, prepare(models, CAT), 1000)


def test_a_network_that_cannot_be_downloaded(models, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for _ in range(2):  # a failure is not remembered as a network
        with pytest.raises(OSError, match=r"google/ddpm-cifar10-32.* failed: .*or use an embedded network: 'photos'"):
            prepare(models, CAT, network="ddpm-cifar10")


def test_networks_are_loaded_once_and_the_oldest_goes(network, conditional, tmp_path, monkeypatch):
    monkeypatch.setattr(models_module, "MAX_NETWORKS", 2)
    network.save_pretrained(tmp_path / "a")
    conditional.save_pretrained(tmp_path / "c")
    models = Models(network=str(tmp_path / "a"))
    first = models.denoiser(str(tmp_path / "a"))
    assert models.denoiser(str(tmp_path / "a")) is first
    with pytest.raises(ValueError, match="needs labels in 0...4: it has no null class"):
        models.denoiser(str(tmp_path / "c"))
    models.denoiser("cifar10")
    assert models.denoiser(str(tmp_path / "a")) is first
    network.save_pretrained(tmp_path / "b")
    models.denoiser(str(tmp_path / "b"))
    assert models.denoiser(str(tmp_path / "a")) is not first


def test_strangers_choose_among_the_named_networks(tmp_path, network):
    network.save_pretrained(tmp_path)
    models = Models(any_network=False)
    with pytest.raises(ValueError, match=r"network must be one of cifar10, .*ddpm-cifar10, .* Got '/"):
        prepare(models, CAT, network=str(tmp_path))


def test_a_network_of_another_size_is_named(models):
    setting = prepare(models, CAT)
    assert size_warning(models, setting) is None
    large = Setting(setting.picture.repeat(1, 3, 3), *setting[1:])
    assert size_warning(models, large).startswith(
        "the picture's 96x96 pixels are far from the denoising network's 32x32"
    )


# The page's plain HTML


def test_text_is_escaped():
    assert "<b>" not in markup.note("<b>") + markup.problem(ValueError("<b>"))
    assert markup.problem(ValueError("two\n  lines")).count("Two lines. The results are still") == 1


def test_a_card_says_whether_the_answer_is_right():
    classes, probabilities = ("cat", "<dog>", "bird", "ship"), torch.tensor([0.6, 0.3, 0.08, 0.02])
    for truth, kind in (("cat", "right"), ("bird", "wrong"), (None, None), ("deer", None)):
        card = markup.card("alone", "", classes, probabilities, "how", truth)
        assert [word in card for word in ("right", "wrong")] == [kind == "right", kind == "wrong"]
        assert card.count('class="bar"') == 3
        assert "&lt;dog&gt;</span><span>30%" in card


def test_row_of_figures():
    row = markup.figures("views", torch.rand(2, 3, 200, 200), [("t = 0", "<cat> 9%"), ("t = 3", "dog 8%")])
    assert row.count("<figure>") == 2
    assert "t = 0<br>&lt;cat&gt; 9%" in row


def test_links_are_the_paper_and_those_of_the_package(monkeypatch):
    urls = ["Documentation, https://example.org/docs", "Paper, https://arxiv.org/abs/2306.09192", "Odd, javascript:0"]
    entries = Message()
    for url in urls:
        entries["Project-URL"] = url
    monkeypatch.setattr(markup.metadata, "metadata", lambda name: entries)
    assert markup.links_to_read() == [("Paper", markup.PAPER), ("Documentation", "https://example.org/docs")]
    assert markup.DOCUMENTATION not in markup.introduction()
    del entries["Project-URL"]
    assert markup.links_to_read() == [("Paper", markup.PAPER)]
    assert markup.DOCUMENTATION in markup.introduction()


def test_the_same_in_python_runs():
    names: dict[str, torch.Tensor] = {}
    exec(results.SAME_IN_PYTHON, names)
    assert [names[name].shape for name in ("alone", "purified", "mean")] == [(4, 10)] * 3
    assert names["view"].shape == (4, 3, 32, 32)


# The command


def test_errors_are_one_line(monkeypatch, capsys):
    """They come before Gradio is imported, so it need not be installed here."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "gradio" or find_spec(name, *rest))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (
                ["--port", "0", "--classifier", "nowhere"],
                "classifier must be cifar10-baseline or cifar10-diffaug, timm:NAME",
            ),
            (["--port", "70000"], "--port must be in 0...65535. Got 70000"),
            (["--port", "0", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
            (["--port", port], f"cannot listen on 127.0.0.1, port {port}: Address already in use. Choose another with"),
        ):
            assert cli.main(["app", *arguments]) == 2
            error = capsys.readouterr().err
            assert error.startswith("diffaug: error: ")
            assert message in error
            assert error.count("\n") == 1


def test_loopback():
    assert [server.is_loopback(host) for host in ("127.0.0.1", "localhost", "::1")] == [True] * 3
    assert [server.is_loopback(host) for host in ("0.0.0.0", "192.168.0.7", "example.org")] == [False] * 3
