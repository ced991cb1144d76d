"""One image's journey: corrupted, its DiffAug views, DDA's result, and a classifier's probabilities under each.

python benchmarks/journey_picture.py --classifier runs/cifar10_recipes/diffaug-0 --index 37 --output journey.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from shift_inputs import open_classifier, open_set
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAugEnsemble
from diffaug_transforms.robustness import CORRUPTIONS, DDA

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", required=True, help="as covariate_shift.py's, of CIFAR-10's classes")
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--corruption", choices=CORRUPTIONS, default="gaussian_noise")
    parser.add_argument("--index", type=int, default=0, help="of the test image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def draw(images: Tensor, probabilities: Tensor, titles: list[str], label: int, path: Path) -> None:
    """A column for each image (N, 3, H, W) in [0, 1], its probabilities (N, 10) as bars under it, the label's green."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    number = len(images)
    figure, panels = plt.subplots(2, number, figsize=(1.25 * number, 3.6), layout="constrained", height_ratios=[1, 1.3])
    for column, (image, p, title) in enumerate(zip(images, probabilities, titles)):
        picture, bars = panels[:, column]
        picture.imshow(F.to_pil_image(image), interpolation="nearest")
        picture.set_title(title, fontsize=9)
        picture.axis("off")
        bars.barh(CLASSES, p, color=["tab:green" if k == label else "tab:gray" for k in range(10)])
        bars.set(xlim=(0, 1), xticks=[0, 1])
        bars.tick_params(labelsize=7, labelleft=column == 0, length=0)
        bars.invert_yaxis()
        bars.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    classifier, _ = open_classifier(args.classifier)
    data = open_set("cifar10-c", args.data, args.corruption, 5)
    image, (label,) = data[args.index][None] / 255, data.labels[args.index]
    ensemble = DiffAugEnsemble(classifier, "cifar10", generator=torch.Generator().manual_seed(args.seed))
    views = ensemble.views(image)[:, 0]
    # The guide that dda_guide.py finds for 32 pixels.
    adapted = DDA("cifar10", guidance_scale=2, downscale=2, generator=torch.Generator().manual_seed(args.seed))(image)
    p = classifier(torch.cat([views, adapted])).softmax(dim=1)
    se, de = (p[0] + p[-1]) / 2, p[:-1].mean(dim=0)
    blank = torch.ones_like(image)
    titles = ["corrupted", *(f"t = {t}" for t in ensemble.view_timesteps[1:]), "DDA", "mean: DE", "mean: DDA-SE"]
    draw(torch.cat([views, adapted, blank, blank]), torch.cat([p, torch.stack([de, se])]), titles, label, args.output)
    print(f"Wrote {args.output}. {args.corruption}, test image {args.index}, a {CLASSES[label]}.")


if __name__ == "__main__":
    main()
