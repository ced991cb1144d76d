"""Run the original scripts of CIFAR-10-C, Tiny ImageNet-C and ImageNet-C and write their results into tests/reference.

    git clone https://github.com/hendrycks/robustness SOURCE
    pip install wand                        # and ImageMagick 6.9, such as Debian 12's libmagickwand-6.q16-6
    python -m tests.fidelity.make_corruptions SOURCE/ImageNet-C/create_c

The scripts run unchanged, but for their random numbers and two calls that today's libraries have renamed.
"""

from __future__ import annotations

import ast
import ctypes
import os
import sys
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import skimage
from safetensors.torch import save_file
from scipy.ndimage import map_coordinates
from scipy.ndimage import zoom as scizoom
from skimage.filters import gaussian
from wand.api import library as wandlibrary
from wand.image import Image as WandImage

from .corruptions import FILE, SEED, cases, image, kept

SCRIPTS = {
    "cifar10-c": "make_cifar_c.py",
    "tiny-imagenet-c": "make_tinyimagenet_c.py",
    "imagenet-c": "make_imagenet_c.py",
}


class Numpy:
    """NumPy with the draws of one generator, and names that it has dropped."""

    float_ = np.float64

    def __init__(self, rng: np.random.Generator) -> None:
        draws = {name: getattr(rng, name) for name in ("normal", "poisson", "uniform")}
        self.random = SimpleNamespace(randint=rng.integers, **draws)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def fromstring(data: bytes, dtype: Any) -> Any:
        return np.frombuffer(data, dtype)


def renamed_gaussian(pixels: Any, sigma: float, multichannel: bool = False, **options: Any) -> Any:
    return gaussian(pixels, sigma, channel_axis=-1 if multichannel else None, **options)


def functions_of(script: Path, rng: np.random.Generator) -> dict[str, Any]:
    """All functions and classes of a script that cannot be imported without its data."""
    motion = wandlibrary.MagickMotionBlurImage
    motion.argtypes = (ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_double)
    random_noise = partial(skimage.util.random_noise, rng=rng)
    namespace = {
        "np": Numpy(rng), "cv2": cv2, "scizoom": scizoom, "map_coordinates": map_coordinates, "BytesIO": BytesIO,
        "gaussian": renamed_gaussian, "PILImage": PIL.Image, "Image": PIL.Image, "WandImage": WandImage,
        "sk": SimpleNamespace(util=SimpleNamespace(random_noise=random_noise), color=skimage.color),
        "wandlibrary": wandlibrary, "data": SimpleNamespace(Dataset=object),
    }  # fmt: skip
    wanted = (ast.FunctionDef, ast.ClassDef)
    nodes: list[ast.stmt] = [
        node
        for node in ast.parse(script.read_text()).body
        if isinstance(node, wanted) and node.name != "DistortImageFolder"
    ]
    exec(compile(ast.Module(nodes, []), str(script), "exec"), namespace)
    return namespace


def main(folder: Path) -> None:
    tensors, file = {}, FILE.resolve()
    os.chdir(folder)  # the pictures of frost
    for name, corruption, severity in cases():
        function = functions_of(Path(SCRIPTS[name]), np.random.default_rng(SEED))[corruption]
        pixels = np.asarray(function(PIL.Image.fromarray(image(name)), severity))
        tensors[f"{name}, {corruption}, severity {severity}"] = kept(pixels, name)
    save_file(tensors, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
