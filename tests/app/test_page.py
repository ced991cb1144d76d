"""The page in use: by ten people at once, and in a browser. Needs the extra ``app`` and Chromium."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.app.compute import classify, denoise, prepare, purify
from diffaug_transforms.app.models import Models
from diffaug_transforms.images import ASSETS
from diffaug_transforms.robustness import CORRUPTIONS

gradio_client = pytest.importorskip("gradio_client")
gradio = pytest.importorskip("gradio")
pytest.importorskip("cv2")

from diffaug_transforms.app import page as page_module  # noqa: E402
from diffaug_transforms.app import results  # noqa: E402

SAMPLES = ASSETS / "samples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120_000  # milliseconds, generous for a loaded machine
DESKTOP, PHONE = (1280, 900), (390, 844)


def heed_ctrl_c() -> None:
    """A shell starts its background jobs, perhaps these tests, with Ctrl-C ignored, and their processes inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`diffaug app` on a free port of the loopback interface, ended by Ctrl-C."""
    command = [sys.executable, "-m", "diffaug_transforms.cli", "app", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, preexec_fn=heed_ctrl_c, **pipes) as process:
        loading, line = process.stdout.readline(), process.stdout.readline()
        assert loading == "Loading\n"
        match = re.fullmatch(r"The page is at (http://127\.0\.0\.1:\d+/) - Ctrl-C ends it\n", line)
        assert match, line + process.stderr.read()
        yield match[1]
        process.send_signal(signal.SIGINT)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, "", "")


def pixels(html: str) -> list[np.ndarray]:
    """The pictures in a piece of HTML."""
    files = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]
    return [np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB")).astype(int) for file in files]


def ask(address: str, path: Path, choices: dict[str, Any], timestep: int) -> list[Any]:
    """One user's answers: the three pictures, the number of views, and the shares in percent of each answer."""
    client = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE / 1000})
    picture = gradio_client.handle_file(str(path))
    *_, note = client.predict(picture, *choices.values(), api_name="/prepare")
    assert 'class="note"' in note, note
    row, _ = client.predict(timestep, api_name="/denoise")
    cards, views, _ = client.predict(api_name="/classify")
    shares = re.findall(r"<span title=\"(\w+)\">\w+</span><span>(\d+)%</span>", cards)
    return [pixels(row), views.count("<figure>"), [(name, int(share)) for name, share in shares]]


def test_ten_users_at_once_get_their_own_answers(address):
    names = sorted(path.stem for path in SAMPLES.glob("*.png"))
    jobs = []
    for user in range(10):
        choices = {
            "corruption": ("none", *CORRUPTIONS)[user],
            "severity": 1 + user % 5,
            "seed": user,
            "network": "cifar10",
            "classifier": ("cifar10-diffaug", "cifar10-baseline")[user % 2],
        }
        jobs.append((SAMPLES / f"{names[user % len(names)]}.png", choices, 50 * user))
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda job: ask(address, *job), jobs))
    models = Models(["cifar10-diffaug", "cifar10-baseline"])
    for (path, choices, timestep), (row, views, shares) in zip(jobs, answers):
        setting = prepare(models, path, **choices)
        expected = classify(models, setting, purify(models, setting).image)
        images = (setting.picture, *denoise(models, setting, timestep))
        for picture, image in zip(row, images, strict=True):
            # A busy machine may round the last bit differently.
            assert np.abs(picture - np.asarray(F.to_pil_image(image)).astype(int)).max() <= 1
        assert views == len(expected.views)
        assert len(shares) == 9
        three = torch.stack([expected.default, expected.purified, expected.de])
        for place, (name, share) in enumerate(shares):
            assert share == pytest.approx(100 * three[place // 3, expected.classes.index(name)].item(), abs=1)


# Without a browser


def test_the_example_changes_the_answer():
    models = Models()
    setting, corruption = page_module.prepare_example(models)
    answer = classify(models, setting, purify(models, setting).image)
    default, purified, de = (answer.classes[int(row.argmax())] for row in (answer.default, answer.purified, answer.de))
    assert corruption == "gaussian_noise"
    assert default != setting.truth
    assert purified == de == setting.truth


def test_the_first_answer_is_in_the_page_itself(address):
    """So nobody waits for a computation."""
    page = urllib.request.urlopen(address).read().decode()
    assert "This is a bird, 32 x 32 pixels, damaged by gaussian noise of severity 3." in page
    assert page.count("The classifier alone") == page.count("After removing the noise") == 1


def test_a_function_that_fails_fills_only_a_note(tmp_path, monkeypatch):
    models = Models()
    (tmp_path / "notes.png").write_text("dear diary")
    choices = ("none", 3, 0, "automatic", "automatic")
    kept = gradio.skip()
    *rest, note = page_module.show_setting(models, {"path": str(tmp_path / "notes.png")}, *choices)
    assert rest == [kept, kept]
    assert "none of these. Save it as PNG. The results are still those from before." in note
    *rest, note = page_module.show_setting(models, None, *choices)
    assert rest == [kept, kept]
    assert "Drop one, or choose a sample." in note
    setting = prepare(models, SAMPLES / "cat.png")
    row, note = page_module.show_steps(models, setting, 5000)
    assert row == kept
    assert "Timesteps must be in 0...999" in note
    monkeypatch.setattr(page_module.compute, "classify", lambda *_: torch.zeros(2) @ torch.zeros(3))
    cards, views, note = page_module.show_answer(models, setting)
    assert (cards, views) == (kept, kept)
    assert note.visible
    assert 'role="alert"' in note.value
    cards, views, note = page_module.show_answer(models, setting._replace(classifier=None))
    assert "pip install efficientnet-lite-pytorch" in cards
    assert views == ""


# In a browser


@pytest.fixture
def opened(address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in headless Chromium, in a window of the parameter's size. Nothing may be fetched from elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    width, height = request.param
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.wait_for_selector(".card .says")
        yield page
        browser.close()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def content(page: Any, name: str) -> str:
    """The inner HTML of a part of the page, without what Gradio lays over it while it computes."""
    return page.inner_html(f"#{name} .prose")


def wait_for_change(page: Any, name: str, before: str) -> str:
    """The content once it is another."""
    condition = "([selector, before]) => { const found = document.querySelector(selector); " \
        "return found && found.innerHTML !== before }"  # fmt: skip
    page.wait_for_function(condition, arg=[f"#{name} .prose", before])
    return content(page, name)


def choose(page: Any, name: str, option: str) -> None:
    page.click(f"#{name} input")
    page.get_by_role("option", name=option, exact=True).click()


@pytest.mark.parametrize("opened", [DESKTOP, PHONE], indirect=True, ids=["desktop", "phone"])
def test_all_answers_are_in_the_first_view(opened):
    size = opened.viewport_size
    boxes = [card.bounding_box() for card in opened.query_selector_all(".card")]
    assert len(boxes) == 3
    for box in boxes:
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
        assert box["y"] + box["height"] <= size["height"]
    assert opened.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert [opened.inner_text(f".card:nth-child({place}) .mark") for place in (1, 3)] == ["✗ wrong", "✓ right"]
    is_phone = size["width"] == PHONE[0]
    answers, settings = (opened.query_selector(name).bounding_box() for name in ("#answers", "#settings"))
    assert (settings["y"] >= answers["y"] + answers["height"]) == is_phone
    assert opened.is_visible(".to-settings") == is_phone
    assert "these 10 classes: airplane, automobile, bird," in opened.inner_text("#views")


@pytest.mark.parametrize("opened", [DESKTOP], indirect=True)
def test_in_use(opened, tmp_path):
    page = opened
    first = {name: content(page, name) for name in ("answers", "views", "steps")}

    page.fill("#timestep input[type=range]", "400")
    page.wait_for_function("document.querySelector('#time-note').innerText.startsWith('At t = 400 ')")
    steps = wait_for_change(page, "steps", first["steps"])
    assert content(page, "answers") == first["answers"]

    page.click("#again")
    views = wait_for_change(page, "views", first["views"])
    wait_for_change(page, "steps", steps)

    assert page.is_visible("#severity")
    choose(page, "corruption", "none")
    page.wait_for_selector("#severity", state="hidden")
    views = wait_for_change(page, "views", views)
    choose(page, "corruption", "fog")
    page.wait_for_selector("#severity", state="visible")
    wait_for_change(page, "views", views)
    assert "damaged by fog of severity 3." in page.inner_text("#picture-note")
    assert len(page.query_selector_all("#views figure")) == 10


@pytest.mark.parametrize("opened", [DESKTOP], indirect=True)
def test_an_error_leaves_the_results_and_a_photo_gets_its_own_network(opened, tmp_path):
    page, upload = opened, "#picture input[type=file]"
    first = {name: content(page, name) for name in ("answers", "views", "steps")}
    (tmp_path / "notes.png").write_text("dear diary")
    page.set_input_files(upload, tmp_path / "notes.png")
    page.wait_for_selector("#picture-note .error")
    assert "Got notes.png, which is none of these. Save it as PNG." in page.inner_text("#picture-note .error")
    assert {name: content(page, name) for name in first} == first
    page.click("[aria-label='Remove Image']")
    page.wait_for_function("document.querySelector('#picture-note').innerText.includes('choose a sample')")
    assert {name: content(page, name) for name in first} == first

    page.set_input_files(upload, SAMPLES / "photo.jpg")
    wait_for_change(page, "answers", first["answers"])
    wait_for_change(page, "steps", first["steps"])
    assert page.is_hidden("#picture-note .error")
    assert "224 x 224 pixels" in page.inner_text("#picture-note")
    if Models().classifier_for(300) is None:
        assert results.NO_CLASSIFIER in page.inner_text("#answers")
        assert page.inner_text("#views") == ""
    else:
        assert len(page.query_selector_all(".card")) == 3
        assert "knows only 1,000 classes" in page.inner_text("#views")
