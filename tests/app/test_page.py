"""The page in use: by ten people at once, and in a browser. Needs the extra ``app`` and Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from diffaug_transforms.app.compute import Models, classify, denoise, prepare
from diffaug_transforms.app.pictures import enlarge
from diffaug_transforms.images import ASSETS
from diffaug_transforms.robustness import CORRUPTIONS

gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")
pytest.importorskip("cv2")

SAMPLES = ASSETS / "samples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120_000  # milliseconds, generous for a loaded machine


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`diffaug app` on a free port of the loopback interface, ended by Ctrl-C."""
    command = [sys.executable, "-m", "diffaug_transforms.cli", "app", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        loading, line = process.stdout.readline(), process.stdout.readline()
        assert loading == "Loading\n"
        match = re.fullmatch(r"The page is at (http://127\.0\.0\.1:\d+/) - Ctrl-C ends it\n", line)
        assert match, line + process.stderr.read()
        yield match[1]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")


def ask(address: str, path: Path, choices: dict[str, Any], timestep: int) -> list[Any]:
    """One user's answers: the three pictures, the number of views, and both classifications."""
    client = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE / 1000})
    picture = gradio_client.handle_file(str(path))
    shown, _, note = client.predict(picture, *choices.values(), api_name="/prepare")
    assert 'class="note"' in note, note
    diffused, denoised, _ = client.predict(timestep, api_name="/denoise")
    _, views, default, de = client.predict(api_name="/classify")
    pictures = [np.asarray(PIL.Image.open(file).convert("RGB")).astype(int) for file in (shown, diffused, denoised)]
    answers = [{entry["label"]: entry["confidence"] for entry in answer["confidences"]} for answer in (default, de)]
    return [*pictures, views.count("<figure>"), *answers]


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
    for (path, choices, timestep), answer in zip(jobs, answers):
        setting = prepare(models, path, **choices)
        expected = classify(models, setting)
        for picture, image in zip(answer, (setting.picture, *denoise(models, setting, timestep))):
            # A busy machine may round the last bit differently.
            assert np.abs(picture - np.asarray(enlarge(image)).astype(int)).max() <= 1
        assert answer[3] == len(expected.views)
        classes = models.classifier(choices["classifier"]).classes
        for shares, probabilities in zip(answer[4:], (expected.default, expected.de)):
            alone = dict(zip(classes, probabilities.tolist()))
            assert shares == pytest.approx({label: alone[label] for label in shares}, abs=1e-3)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The page in headless Chromium, with its first answer. Nothing may be fetched from elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        page.set_default_timeout(PATIENCE)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.wait_for_selector("#de h2")
        yield page
        browser.close()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def wait_for_change(page: Any, selector: str, attribute: str, before: str) -> str:
    condition = "([selector, name, before]) => { const found = document.querySelector(selector); " \
        "return found && found[name] && found[name] !== before }"  # fmt: skip
    page.wait_for_function(condition, arg=[selector, attribute, before])
    return page.eval_on_selector(selector, f"found => found.{attribute}")


def test_in_a_browser(page, tmp_path):
    photo = tmp_path / "photo.jpg"
    PIL.Image.open(SAMPLES / "truck.png").resize((300, 200)).save(photo)
    (tmp_path / "notes.png").write_text("dear diary")
    (tmp_path / "notes.txt").write_text("dear diary")
    upload = "#picture input[type=file]"
    answer = page.inner_text("#default h2")
    assert "horse" in answer
    first = {name: page.get_attribute(f"#{name} img", "src") for name in ("shown", "denoised")}

    page.fill("#timestep input[type=range]", "400")
    second = wait_for_change(page, "#denoised img", "src", first["denoised"])
    page.wait_for_function("document.querySelector('#time-note').innerText.startsWith('At t = 400:')")
    assert page.get_attribute("#shown img", "src") == first["shown"]

    page.set_input_files(upload, photo)
    shown = wait_for_change(page, "#shown img", "src", first["shown"])
    wait_for_change(page, "#denoised img", "src", second)
    wait_for_change(page, "#default h2", "innerText", answer)
    views = page.inner_html("#views")
    page.click("#corruption input")
    page.get_by_role("option", name="fog", exact=True).click()
    wait_for_change(page, "#shown img", "src", shown)
    wait_for_change(page, "#views", "innerHTML", views)
    assert "Corrupted as in cifar10-c: fog, severity 3." in page.inner_text("#picture-note")
    assert len(page.query_selector_all("#views figure")) == 10

    page.set_input_files(upload, tmp_path / "notes.png")
    page.wait_for_selector("#picture-note .error")
    assert "Got notes.png, which is none of these" in page.inner_text("#picture-note .error")
    page.wait_for_selector("#de h2", state="detached")
    page.click("[aria-label='Remove Image']")
    page.wait_for_function("document.querySelector('#picture-note').innerText.includes('choose a sample')")
    page.set_input_files(upload, tmp_path / "notes.txt")
    page.get_by_text("Invalid file type: notes.txt").wait_for()
