"""What an import costs, what the distributions hold, and that the docstrings' examples run."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import diffaug_transforms
from diffaug_transforms import classifiers, guidance, offline, robustness, score, transforms
from diffaug_transforms.score import sampling

ROOT = Path(__file__).parent.parent
LAZY = ("diffusers", "huggingface_hub", "safetensors", "accelerate", "transformers", "matplotlib")


def run(code: str) -> str:
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_import_is_light():
    """No heavy module, no weights opened, no warning. Time itself is in benchmarks/throughput.py."""
    code = f"""
import sys, torchvision.transforms.v2
opened = []
sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == "open" else None)
import diffaug_transforms
print([name for name in {LAZY} if name in sys.modules], [p for p in opened if p.endswith((".safetensors", ".json"))])
"""
    assert run(code).strip() == "[] []"


def test_nothing_is_loaded_until_the_first_image():
    code = f"""
import sys
from diffaug_transforms import DiffAug, DiffAugEnsemble, list_score_networks
augment = DiffAug("imagenet256", timesteps=range(350, 701, 50))
DiffAugEnsemble(augment, "imagenet256"); repr(augment); list_score_networks()
print([name for name in {LAZY} if name in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_public_names():
    assert set(dir(diffaug_transforms)) == {*diffaug_transforms.__all__, "__version__"}
    for name in diffaug_transforms.__all__:
        assert getattr(diffaug_transforms, name).__doc__


@pytest.mark.parametrize("folder", [score, transforms, guidance, robustness, classifiers, offline])
def test_dir_shows_public_names_only(folder):
    assert dir(folder) == sorted(folder.__all__)
    assert all(hasattr(folder, name) for name in dir(folder))


def test_citation_names_this_version():
    assert f"\nversion: {diffaug_transforms.__version__}\n" in (ROOT / "CITATION.cff").read_text()


HELD = (
    "diffaug_transforms/assets/cards.json",
    "diffaug_transforms/assets/openai_releases.json",
    "diffaug_transforms/assets/imagenet_d.json",
    "diffaug_transforms/assets/networks/cifar10/unet/diffusion_pytorch_model.safetensors",
    "diffaug_transforms/assets/networks/cifar10/scheduler/scheduler_config.json",
    "diffaug_transforms/assets/networks/cifar10/README.md",
    "diffaug_transforms/assets/classifiers/cifar10-diffaug/model.safetensors",
    "diffaug_transforms/assets/classifiers/cifar10-denoise-augmented/encoder/diffusion_pytorch_model.safetensors",
    "diffaug_transforms/assets/samples/cat.png",
    "diffaug_transforms/assets/frost/frost4.jpg",
    "diffaug_transforms/assets/frost/LICENSE",
    "diffaug_transforms/py.typed",
)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel built from it, in an environment of their own as pip would."""
    pytest.importorskip("build")
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(output), str(ROOT)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = (result.stdout + result.stderr).replace("deprecated.py", "").splitlines()
    warned = [line for line in lines if re.search(r"warn|deprecat", line, re.I)]
    assert warned == []
    return output


def test_wheel_and_sdist_hold_what_they_should(distributions):
    info = f"diffaug_transforms-{diffaug_transforms.__version__}"
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert set(HELD) <= names
    assert {name.split("/")[0] for name in names} == {"diffaug_transforms", f"{info}.dist-info"}
    assert f"{info}.dist-info/licenses/LICENSE" in names
    needs = {
        re.match(r"[\w-]+", line)[0] for line in re.findall(r"Requires-Dist: (.*)", metadata) if "extra" not in line
    }
    assert needs == {"torch", "torchvision", "diffusers", "huggingface_hub", "safetensors"}
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as sdist:
        inside = {name.split("/", 1)[-1] for name in sdist.getnames()}
    assert {*HELD, "LICENSE", "README.md", "CHANGELOG.md", "setup.cfg", "pyproject.toml"} <= inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/", "examples/"))]


def modules_with_examples() -> list[str]:
    """Names of the package's modules whose docstrings hold examples that run, without importing them."""
    found = pkgutil.walk_packages(diffaug_transforms.__path__, "diffaug_transforms.")
    files = {info.name: Path(info.module_finder.path) / info.name.rpartition(".")[2] for info in found}
    sources = {name: path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for name, path in files.items()}
    runs = re.compile(r"^\s*>>> (?!.*\+SKIP)", re.M)
    return [name for name, path in sources.items() if runs.search(path.read_text())]


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(name):
    pytest.importorskip("cv2")
    folders = (score, sampling, transforms, robustness, guidance)
    public = {key: value for folder in folders for key, value in vars(folder).items()}
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={**public, "torch": torch, **vars(module)})
    assert result.attempted > 0
    assert result.failed == 0
