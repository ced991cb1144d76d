"""Pictures of the documentation.

python -m benchmarks.pictures steps      # docs/steps.png: a photo and a small image, diffused, then denoised
python -m benchmarks.pictures flow       # docs/data_flow.png: what happens to an image, and in which folder
python -m benchmarks.pictures views      # docs/views.png: the views of the recipe deepaugment+augmix+diffaug
python -m benchmarks.pictures journey    # docs/journey.png: one test image under Default, DE and DDA, with answers
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import AugMix, DeepAugment, DiffAug, DiffAugEnsemble, compose_with
from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.figures import draw_grid, stack_pictures
from diffaug_transforms.images import sample_images, sample_photo
from diffaug_transforms.robustness import CORRUPTIONS, DDA
from diffaug_transforms.score import Denoiser, views_over_time

from .harness.classifiers import open_classifier
from .harness.data import CIFAR10_CLASSES, open_set
from .harness.options import nonnegative_int, script_parser
from .harness.pictures import draw_rows, new_figure, save_figure

DOCS = Path(__file__).parent.parent / "docs"
#: Letters and arrows of the flow, which light and dark pages both carry; and letters on coloured boxes.
GREY, DARK = "#808080", "#1d2430"
COLOURS = {"score": "#a9d3f0", "transforms": "#b9e3b0", "robustness": "#f6cfa0", "guidance": "#dcc3ef"}
NAME, TIMESTEP, SIDE = "horse", 200, 1.5
#: The views of an ensemble that the journey shows.
SHOWN = (3, 6, 9)
BOXES = (
    ("transforms", "training\ncompose_with, recipe,\nAugMix, DeepAugment,\nViewsLoss"),
    ("robustness", "test time\nDDA: guided steps back;\ntest sets, corruptions,\nmCE"),
    ("robustness", "evidence\nDenoisedSmoothing,\nOODDetector, gradients,\nJacobian"),
    ("guidance", "generation\nclassifiers of $x_t$ and of\nthe denoised image,\nclassifier_guide"),
)


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, data="uoft-cs/cifar10", seed=0)
    parser.add_argument("what", choices=("steps", "flow", "views", "journey"))
    parser.add_argument("--classifier", default="cifar10-diffaug", help="of CIFAR-10's classes")
    parser.add_argument("--corruption", choices=CORRUPTIONS, default="gaussian_noise")
    parser.add_argument("--index", type=nonnegative_int, default=41, help="of the test image")
    parser.add_argument("--output", type=Path, help="default: docs/ and the name above")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    draw, name = {
        "steps": (draw_steps, "steps.png"),
        "flow": (draw_flow, "data_flow.png"),
        "views": (draw_views, "views.png"),
        "journey": (draw_journey, "journey.png"),
    }[args.what]
    draw(args, args.output or DOCS / name)


def draw_steps(args: argparse.Namespace, path: Path) -> None:
    """The photo and a small image of the package, each with x_t and its augmentation at several t."""
    pictures = []
    for network, image, timesteps, label, cell in (
        ("photos", sample_photo(), (150, 350), "photo", 90),
        ("cifar10", sample_images()["dog"], (25, 75, 200), "32 pixels", 96),
    ):
        batch = F.pil_to_tensor(image)[None] / 255
        diffused, denoised = views_over_time(Denoiser(network), batch, timesteps, args.seed)
        pairs = torch.stack([diffused[:, 0], denoised[:, 0]], dim=1).flatten(0, 1)
        columns = ["image", *(text for t in timesteps for text in (f"x_t, t = {t}", "augmentation"))]
        pictures.append(draw_grid([torch.cat([batch, pairs])], columns, [label], cell=cell))
    stack_pictures(pictures).save(path)
    print(f"Wrote {path}")


def draw_views(args: argparse.Namespace, path: Path) -> None:
    """The views of the package's sample images."""
    torch.manual_seed(args.seed)
    crop = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    views = compose_with(AugMix(), AugMix(), DeepAugment(), diffaug=DiffAug("cifar10"), clean=crop)
    rows: dict[str, list[Tensor]] = {}
    columns: list[str] = []
    for name, image in sample_images().items():
        batch = views.per_batch({key: view[None] for key, view in views.per_sample(image).items()})
        columns = ["image", *batch]
        cells = [F.to_image(image), *(view[0] for view in batch.values())]
        rows[name] = [cell.as_subclass(Tensor).float() / 255 for cell in cells]
    draw_rows(rows, columns, path, cell=96)


@torch.inference_mode()
def draw_journey(args: argparse.Namespace, path: Path) -> None:
    """Some views of one corrupted image, DDA's image and the two means, with the answers; the label's bar is green."""
    classifier, _ = open_classifier(args.classifier)
    image, label = open_set("cifar10-c", args.data, args.corruption, 5)[args.index]
    image = image[None] / 255
    ensemble = DiffAugEnsemble(classifier, "cifar10", generator=torch.Generator().manual_seed(args.seed))
    views, steps = ensemble.views(image)[:, 0], ensemble.view_timesteps
    # The guide that benchmarks.adaptation finds for 32 pixels.
    adapted = DDA("cifar10", guidance_scale=2, downscale=2, generator=torch.Generator().manual_seed(args.seed))(image)
    p = classifier(torch.cat([views, adapted])).softmax(dim=1)
    columns: list[tuple[str, Tensor | str, Tensor]] = [("corrupted", views[0], p[0])]
    columns += [(f"view, t = {steps[i]}", views[i], p[i]) for i in SHOWN]
    columns.append(("DDA", adapted[0], p[-1]))
    columns.append(("DE", f"mean over\nthe image\nand its\n{len(steps) - 1} views", p[:-1].mean(dim=0)))
    columns.append(("DDA-SE", "mean over\nthe image\nand DDA's", (p[0] + p[-1]) / 2))
    figure, panels = new_figure(2, len(columns), (1.3 * len(columns), 3.9), height_ratios=[1, 1.6])
    for column, (title, shown, values) in enumerate(columns):
        picture, bars = panels[:, column]
        if isinstance(shown, str):
            picture.set_box_aspect(1)
            picture.text(0.5, 0.5, shown, fontsize=11, ha="center", va="center")
        else:
            picture.imshow(F.to_pil_image(shown), interpolation="nearest")
        picture.set_title(title, fontsize=12)
        picture.axis("off")
        bars.barh(CIFAR10_CLASSES, values, color=["tab:green" if k == int(label) else "tab:gray" for k in range(10)])
        bars.set(xlim=(0, 1), xticks=[0, 1])
        bars.tick_params(labelsize=11, labelleft=column == 0, length=0)
        bars.invert_yaxis()
        bars.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("probability of the class", fontsize=11)
    save_figure(figure, path, dpi=110)


def draw_flow(args: argparse.Namespace, path: Path) -> None:
    """The main line, image, x_t, denoised image, answer; above and below it the folders that use it."""
    from matplotlib.figure import Figure

    classifier = load_classifier("cifar10-diffaug")
    image = F.pil_to_tensor(sample_images()[NAME])[None] / 255
    diffused, denoised = (views[0] for views in views_over_time(Denoiser("cifar10"), image, [TIMESTEP]))
    with torch.no_grad():
        answers = classifier(denoised).softmax(1)[0]
    figure = Figure(figsize=(13.6 * 0.72, 5.7 * 0.72))
    panel = figure.add_axes((0, 0, 1, 1))
    draw_uses(panel)
    draw_line(panel, image[0], diffused[0], denoised[0], 2.3)
    draw_answer(panel, answers, classifier.classes, 2.3)
    panel.set(xlim=(-0.05, 13.6), ylim=(-0.05, 5.65), aspect="equal")
    panel.axis("off")
    save_figure(figure, path, dpi=170, transparent=True)


def draw_line(panel: Any, image: Tensor, diffused: Tensor, denoised: Tensor, y: float) -> None:
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
    augment = "transforms/    DiffAug: image in, denoised image out, a draw of t per sample"
    draw_box(panel, 0, 4.35, 9.3, 0.55, "transforms", augment)
    ensemble = "transforms/    DiffAugEnsemble, AnytimeEnsemble: several t, mean answer"
    draw_box(panel, 0, 5.05, 13.55, 0.55, "transforms", ensemble)
    for place, (folder, text) in enumerate(BOXES):
        head, _, body = text.partition("\n")
        draw_box(panel, 3.45 * place, 0, 3.2, 1.35, folder, "")
        write(panel, 3.45 * place + 1.6, 1.13, f"{folder}/  {head}", DARK, weight="bold")
        write(panel, 3.45 * place + 1.6, 0.5, body, DARK)


def draw_image(panel: Any, image: Tensor, x: float, y: float, title: str, below: str) -> None:
    panel.imshow(image.permute(1, 2, 0), extent=(x, x + SIDE, y, y + SIDE), interpolation="nearest", zorder=2)
    write(panel, x + SIDE / 2, y + SIDE + 0.17, title, weight="bold")
    write(panel, x + SIDE / 2, y - 0.32, below)


def draw_box(panel: Any, x: float, y: float, width: float, height: float, folder: str, text: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    options: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.12",
        "facecolor": COLOURS[folder],
        "linewidth": 0,
        "zorder": 1,
    }
    panel.add_patch(FancyBboxPatch((x, y), width, height, **options))
    write(panel, x + width / 2, y + height / 2, text, DARK)


def draw_arrow(panel: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    options = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.6, "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, start, arrowprops=options, zorder=0)


def write(panel: Any, x: float, y: float, text: str, colour: str = GREY, **options: Any) -> None:
    panel.text(x, y, text, color=colour, ha="center", va="center", fontsize=9, **options)


if __name__ == "__main__":
    main()
