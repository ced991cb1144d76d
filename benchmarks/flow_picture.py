"""docs/data_flow.png: what happens to an image, and where each folder of the package stands.

python benchmarks/flow_picture.py

Transparent, with letters and arrows in a grey that light and dark pages both carry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug
from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.figures import sample_images, views_over_time

TARGET = Path(__file__).parent.parent / "docs" / "data_flow.png"
GREY, DARK = "#808080", "#1d2430"
COLOURS = {"score": "#a9d3f0", "transforms": "#b9e3b0", "robustness": "#f6cfa0", "guidance": "#dcc3ef"}
NAME, TIMESTEP, SIDE = "horse", 200, 1.5


def draw_image(panel: Any, image: Tensor, x: float, y: float, title: str, below: str) -> None:
    panel.imshow(image.permute(1, 2, 0), extent=(x, x + SIDE, y, y + SIDE), interpolation="nearest", zorder=2)
    write(panel, x + SIDE / 2, y + SIDE + 0.17, title, weight="bold")
    write(panel, x + SIDE / 2, y - 0.32, below)


def write(panel: Any, x: float, y: float, text: str, colour: str = GREY, size: float = 9, **options: Any) -> None:
    panel.text(x, y, text, color=colour, ha="center", va="center", fontsize=size, **options)


def draw_box(panel: Any, x: float, y: float, width: float, height: float, folder: str, text: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.12"
    panel.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=COLOURS[folder], linewidth=0, zorder=1)
    )
    write(panel, x + width / 2, y + height / 2, text, DARK)


def draw_arrow(panel: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    options = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.6, "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, start, arrowprops=options, zorder=0)


def draw_flow(panel: Any, image: Tensor, diffused: Tensor, denoised: Tensor, y: float) -> None:
    """The main line: image, x_t, denoised image, answer."""
    middle = y + SIDE / 2
    draw_image(panel, image, 0, y, "image", "(B, C, H, W)\nin [0, 1], or uint8")
    draw_image(panel, diffused, 3.9, y, f"$x_t$, here t = {TIMESTEP}", "(B, C, H, W) float32\nimage in [-1, 1] + noise")
    draw_image(panel, denoised, 7.8, y, "denoised image", "(B, C, H, W)\nrange and type of the input")
    for x, text in ((1.98, "diffuse\nt (B,), noise"), (5.88, "score network\none call")):
        draw_arrow(panel, (x - 0.4, middle), (x + 1.84, middle))
        draw_box(panel, x, middle - 0.36, 1.34, 0.72, "score", text)
        write(panel, x + 0.67, middle + 0.53, "score/")
    draw_arrow(panel, (9.38, middle), (11.62, middle))
    write(panel, 10.5, middle + 0.45, "your\nclassifier")


def draw_answer(panel: Any, answers: Tensor, classes: tuple[str, ...], y: float) -> None:
    """The three most probable classes as bars."""
    write(panel, 12.6, y + SIDE + 0.17, "answer", weight="bold")
    for place, (p, label) in enumerate(zip(*answers.topk(3))):
        height = y + SIDE - 0.32 - 0.5 * place
        panel.barh(height - 0.13, float(p) * 1.8, 0.14, left=11.75, color="#4c8dc9")
        panel.text(11.75, height + 0.08, classes[int(label)], color=GREY, fontsize=9, va="center")
    write(panel, 12.6, y - 0.32, "logits or log-\nprobabilities (B, K)")


def draw_uses(panel: Any) -> None:
    """What the folders do with that line."""
    draw_box(
        panel,
        0,
        4.35,
        9.3,
        0.55,
        "transforms",
        "transforms/    DiffAug: image in, denoised image out, a draw of t per sample",
    )
    draw_box(
        panel,
        0,
        5.05,
        13.55,
        0.55,
        "transforms",
        "transforms/    DiffAugEnsemble, AnytimeEnsemble: several t, mean answer",
    )
    boxes = (
        ("transforms", "training\ncompose_with, recipe,\nAugMix, DeepAugment,\nViewsLoss"),
        ("robustness", "test time\nDDA: guided steps back;\ntest sets, corruptions,\nmCE"),
        ("robustness", "evidence\nDenoisedSmoothing,\nOODDetector, gradients,\nJacobian"),
        ("guidance", "generation\nclassifiers of $x_t$ and of\nthe denoised image,\nclassifier_guide"),
    )
    for place, (folder, text) in enumerate(boxes):
        draw_box(panel, 3.45 * place, 0, 3.2, 1.35, folder, "")
        head, _, body = text.partition("\n")
        write(panel, 3.45 * place + 1.6, 1.13, f"{folder}/  {head}", DARK, weight="bold")
        write(panel, 3.45 * place + 1.6, 0.5, body, DARK)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    classifier = load_classifier("cifar10-diffaug")
    image = F.pil_to_tensor(sample_images()[NAME])[None] / 255
    diffused, denoised = (views[0] for views in views_over_time(DiffAug("cifar10"), image, [TIMESTEP]))
    with torch.no_grad():
        answers = classifier(denoised).softmax(1)[0]
    figure = plt.figure(figsize=(13.6 * 0.72, 5.7 * 0.72))
    panel = figure.add_axes((0, 0, 1, 1))
    draw_uses(panel)
    draw_flow(panel, image[0], diffused[0], denoised[0], 2.3)
    draw_answer(panel, answers, classifier.classes, 2.3)
    panel.set(xlim=(-0.05, 13.6), ylim=(-0.05, 5.65), aspect="equal")
    panel.axis("off")
    figure.savefig(TARGET, dpi=170, transparent=True)
    print(f"Wrote {TARGET}")


if __name__ == "__main__":
    main()
