"""What the README and the documentation show: code runs, commands parse, links and pictures lead somewhere."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from diffaug_transforms import guidance, robustness, score, transforms
from diffaug_transforms.classifiers import NormalizedClassifier, build_model, save_classifier
from diffaug_transforms.cli import build_parser
from diffaug_transforms.images import sample_images

for module in ("datasets", "pandas"):
    pytest.importorskip(module)

from benchmarks.tables import __main__ as tables  # noqa: E402

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *(p for p in sorted(DOCS.rglob("*.md")) if not {"_build", "gallery"} & {*p.parts})]


def blocks(language: str) -> dict[str, str]:
    """Every block of code in that language once, and where it stands first: page and line."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
            line = text.count("\n", 0, match.start()) + 1
            found.setdefault(match[1], f"{page.relative_to(ROOT)}:{line}")
    return found


#: tests/examples/test_training_code.py runs that page's code, which needs more libraries.
PYTHON = {code: place for code, place in blocks("python").items() if not place.startswith("docs/training_code.md")}


def commands() -> dict[str, str]:
    """Every command of every shell block once, with its block's variables filled in, and where it stands first.

    What follows a backslash belongs to a line, && parts it. A variable of $(...) is one word.
    """
    found: dict[str, str] = {}
    for block, place in blocks("bash").items():
        variables: dict[str, str] = {}
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            bare = re.sub(r"(^|\s)#.*", "", line).strip()
            filled = re.sub(r"\$(\w+)", lambda name, known=variables: known[name[1]], bare)
            if assigned := re.fullmatch(r"(\w+)=(.*)", filled):
                variables[assigned[1]] = "WORD" if assigned[2].startswith("$(") else shlex.split(assigned[2])[0]
                continue
            for command in filter(None, map(str.strip, filled.split("&&"))):
                found.setdefault(command, place)
    return found


COMMANDS = commands()


@pytest.fixture
def prepared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code expects in the folder that it runs in: a trained classifier and two test sets of one image."""
    monkeypatch.chdir(tmp_path)
    trained = NormalizedClassifier(build_model("cifar_resnet-8", 10), [0.5], [0.5])
    save_classifier(trained, tmp_path / "runs" / "a", "cifar_resnet-8", classes=list("0123456789"))
    for folder in ("imagenet-r/n01443537", "imagenet/val/n01440764"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        sample_images()["cat"].save(tmp_path / "data" / folder / "a.jpg")


@pytest.mark.parametrize("code", PYTHON, ids=PYTHON.values())
def test_code_runs(code, prepared_folder):
    pytest.importorskip("cv2")
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@cache
def load_script(path: Path) -> ModuleType:
    """The module of a script of ours, which finds the modules beside it."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


def check_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The script or module is there and its own parser takes the arguments."""
    if words[0] == "-m":
        words = words[1:]
        folder = ROOT / words[0].replace(".", "/")
        module = importlib.import_module(f"{words[0]}.__main__" if folder.is_dir() else words[0])
    else:
        module = load_script(ROOT / words[0])
    monkeypatch.setattr(sys, "argv", words)
    module.parse_arguments()


def check_pip(words: list[str]) -> None:
    """The extras are setup.cfg's; other packages' names cannot be checked."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for word in words:
        if extras := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(extras[1].split(",")) <= set(config["options.extras_require"])


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{p} {c[:40]}" for c, p in COMMANDS.items()])
def test_command_parses(command, monkeypatch):
    words = shlex.split(command)
    if words[0] == "diffaug":
        build_parser().parse_args(words[1:])
    elif words[0] == "python":
        check_script(words[1:], monkeypatch)
    elif words[:2] == ["accelerate", "launch"]:
        check_script(words[2:], monkeypatch)
    elif words[:2] == ["pip", "install"]:
        check_pip(words[2:])
    else:
        assert words[0] in ("git", "cd", "pytest", "sphinx-build")


def links() -> list[object]:
    found = []
    for page in PAGES:
        text = re.sub(r"^```(?!\{).*?^```", "", page.read_text(), flags=re.S | re.M)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"\w+:", target):
                found.append(pytest.param(page, target, id=f"{page.relative_to(ROOT)} {target}"))
    return found


@pytest.mark.parametrize(("page", "target"), links())
def test_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    linked = page.parent / path if path else page
    assert linked.exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)", linked.read_text(), re.M)
        assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("folder", [score, transforms, robustness, guidance])
def test_reference_has_every_public_name(folder):
    name = folder.__name__.rpartition(".")[2]
    documented = re.findall(r"^\.\. auto\w+:: (\w+)$", (DOCS / "api" / f"{name}.md").read_text(), re.M)
    functions = {public for public in folder.__all__ if not isinstance(getattr(folder, public), ModuleType)}
    assert functions <= set(documented)
    assert len(documented) == len(set(documented))


def test_reference_has_every_command():
    (subparsers,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    page = (DOCS / "api" / "command_line.md").read_text()
    assert re.findall(r"^### diffaug (\w+)$", page, re.M) == re.findall(r"generated/(\w+)\.txt", page)
    assert set(re.findall(r"^### diffaug (\w+)$", page, re.M)) == set(subparsers.choices)


def test_tables_covers_every_page():
    assert set(tables.pages()) >= set(PAGES)
