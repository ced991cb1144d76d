"""The paper's OOD table at 32 pixels: does DiffAug help a classifier to tell images of other classes from its own?

    python -m benchmarks.train_cifar10 --known 6   # classifiers of six classes; without --known, of all ten
    python -m benchmarks.ood --data uoft-cs/cifar10 --photos data/imagenet-val --fashion runs/ood/fashion \\
        --far textures=runs/ood/textures --classifier runs/cifar10_recipes/{baseline,diffaug}-? \\
        runs/cifar10_recipes/known_classes-?/{baseline,diffaug}-?
    python -m benchmarks.ood --near tin=openood:data/tiny-imagenet --fashion runs/ood/fashion \\
        --far textures=runs/ood/textures --limit 10000 --output benchmarks/results/ood_openood.json \\
        --classifier runs/airbench94/{baseline,diffaug}-?
    python -m benchmarks.ood degraded --photos data/imagenet-val --fashion runs/ood/fashion \\
        --classifier runs/cifar10_recipes/{baseline,diffaug}-?

Near sets: `--photos`, ImageNet's photos of classes that CIFAR-10 lacks. Resized by the bilinear filter they are about
as sharp as CIFAR-10; `--filters bilinear lanczos` shows what sharpness does. A classifier that knows some of the
classes gets only the others, `unknown classes`, and no other set. Far sets: Fashion-MNIST and textures (see sets.py),
and noise. Further sets are a folder of images of any size, a Hub id, or a folder in the Hub's layout:
`--near cifar100=uoft-cs/cifar100 tin=data/tiny-imagenet/test`, `--far svhn=data/svhn`. `openood:` in front of Tiny
ImageNet means the 7,793 images on which OpenOOD tests CIFAR-10's classifiers (see openood.py). ImageNet's classifiers:
`--size 224 --resize 256 --data imagenet-1k --near ssb_hard=data/ssb_hard ninco=data/ninco --far textures=data/dtd`.
Writes the records, and a picture of the sets and of their scores; prints the tables.

degraded: why DiffAug helps on some sets and not on others. MSP on the photos and Fashion-MNIST, blurred, noisy or
faint; the in-distribution images stay as they are. The classifiers know all of CIFAR-10's classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms.robustness import OOD_METHODS, OODDetector, aupr, auroc, fpr95
from diffaug_transforms.robustness.evaluation.sets import HubImages, center_crop

from ..harness.classifiers import open_classifier
from ..harness.options import default_device, positive_int, script_parser
from ..harness.records import RESULTS, Record, write_results
from ..harness.tables import frame
from ..tables.ood import all_tables, ood_degraded
from .picture import Judged, Scores, draw_sets
from .sets import (
    FILTERS,
    Case,
    ImageSet,
    degradations,
    known_classes,
    load,
    make_case,
    read_fashion,
    read_photos,
)

METRICS = {"auroc": auroc, "fpr95": fpr95, "aupr": aupr}


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, data="uoft-cs/cifar10", batch_size=500, seed=0)
    parser.add_argument("what", nargs="?", choices=("scores", "degraded"), default="scores")
    parser.add_argument("--classifier", nargs="+", required=True, help="as benchmarks.covariate_shift takes them")
    parser.add_argument("--photos", help="ImageNet, Hub id or folder in its layout; its test or validation split")
    parser.add_argument("--filters", nargs="+", choices=FILTERS, default=["bilinear"], help="that resize the photos")
    parser.add_argument("--fashion", type=Path, help="folder with Fashion-MNIST's t10k-images-idx3-ubyte")
    parser.add_argument("--near", nargs="+", action="extend", default=[], metavar="NAME=DATA", help="see above")
    parser.add_argument("--far", nargs="+", action="extend", default=[], metavar="NAME=DATA", help="see above")
    parser.add_argument("--size", type=positive_int, default=32, help="of the classifiers' images, in pixels")
    parser.add_argument(
        "--resize", type=positive_int, help="the shorter side before the centre is cut out; default: --size"
    )
    parser.add_argument("--images", type=positive_int, help="in-distribution test images; default: all, degraded 2000")
    parser.add_argument("--fit-images", type=positive_int, default=1000, help="training images that ReAct is fitted to")
    parser.add_argument("--limit", type=positive_int, default=2000, help="images of an OOD set at most")
    parser.add_argument("--output", type=Path, help="default: ood.json or ood_degraded.json in results/")
    args = parser.parse_args()
    if args.what == "degraded" and not (args.photos and args.fashion):
        parser.error("degraded needs --photos and --fashion")
    return args


def main() -> None:
    args = parse_arguments()
    if args.what == "degraded":
        records = judge_degraded(args)
        write_results("ood", records, args.output or RESULTS / "ood_degraded.json")
        print(ood_degraded(frame(records)))
        return
    records, judged = run(args)
    path = args.output or RESULTS / "ood.json"
    write_results("ood", records, path)
    draw_sets(judged, path.with_suffix(".png"))
    print(all_tables(frame(records)))


def run(args: argparse.Namespace) -> tuple[list[Record], list[Judged]]:
    """The records; and each classifier's scores of each set, for the picture."""
    test = HubImages(args.data, transform=center_crop(args.size, args.resize))
    cases: dict[tuple[str, ...], Case] = {}
    records: list[Record] = []
    judged: list[Judged] = []
    for spec in tqdm(args.classifier, desc="classifiers"):
        classifier, fields = open_classifier(spec)
        known = known_classes(spec, test.classes)
        if known not in cases:
            cases[known] = make_case(args, known, test)
        case = cases[known]
        measured, scores = judge(classifier.to(default_device()), case, args.batch_size)
        records += [{"benchmark": "ood", **fields, "classes": len(known), **r} for r in measured]
        judged += [Judged(fields["recipe"], fields["seed"], case.known, s, scores[s.name]) for s in case.sets]
    return records, judged


@torch.inference_mode()
def judge(classifier: nn.Module, case: Case, batch_size: int) -> tuple[list[Record], dict[str, Scores]]:
    """Accuracy on the known classes, then every metric for every method and set; and each set's scores."""
    plain = OODDetector(classifier, method="msp")
    inside, fit = (features_of(plain, pixels, batch_size) for pixels in (case.known.pixels, case.fit))
    right = classifier.get_submodule(plain.layer)(inside).argmax(1).cpu() == case.labels
    n_id = len(right)
    records = [record(case.known, "", None, "accuracy", right.float().mean().item(), n_id)]
    scores: dict[str, Scores] = {images.name: {} for images in case.sets}
    detectors = {method: OODDetector(classifier, method=method).fit(fit) for method in OOD_METHODS}
    for images in case.sets:
        outside = features_of(plain, images.pixels, batch_size)
        for method, detector in detectors.items():
            pair = scores[images.name][method] = (detector.score(inside).cpu(), detector.score(outside).cpu())
            for name, metric in METRICS.items():
                records.append(record(images, method, detector.percentile, name, metric(*pair), n_id))
    return records, scores


@torch.inference_mode()
def features_of(detector: OODDetector, pixels: Tensor, batch_size: int) -> Tensor:
    return torch.cat([detector.features(part.to(default_device())).float() for part in pixels.split(batch_size)])


def record(images: ImageSet, method: str, percentile: float | None, metric: str, fraction: float, n_id: int) -> Record:
    here: Record = {"dataset": images.name, "distance": images.distance, "method": method, "percentile": percentile}
    return {**here, "metric": metric, "value": round(100 * fraction, 3), "n": len(images.pixels), "n_id": n_id}


@torch.inference_mode()
def judge_degraded(args: argparse.Namespace) -> list[Record]:
    """MSP's AUROC on each set as it is and degraded."""
    number = args.images or args.limit
    inside = load("cifar10", "id", HubImages(args.data, transform=center_crop(32)), number)
    sets = [
        load("photos", "near", read_photos(args.photos, 32, 32), number),
        load("fashion-mnist", "far", read_fashion(args.fashion, 32), number),
    ]
    records: list[Record] = []
    for spec in tqdm(args.classifier, desc="classifiers"):
        classifier, fields = open_classifier(spec)
        detector = OODDetector(classifier.to(default_device()), method="msp")
        id_scores = detector.score(features_of(detector, inside.pixels, args.batch_size)).cpu()
        for images in sets:
            for name, degrade in degradations(args.seed).items():
                degraded = degrade(images.pixels.float() / 255)
                scores = detector.score(features_of(detector, degraded, args.batch_size)).cpu()
                here = {"benchmark": "ood_degraded", **fields, "dataset": images.name, "degradation": name}
                here |= {"method": "msp", "metric": "auroc", "value": round(100 * auroc(id_scores, scores), 3)}
                records.append({**here, "n": len(images.pixels), "n_id": len(inside.pixels)})
    return records


if __name__ == "__main__":
    main()
