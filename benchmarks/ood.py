"""The paper's OOD table at 32 pixels: does DiffAug help a classifier to tell images of other classes from its own?

    python benchmarks/train_known_classes.py  # classifiers of six of CIFAR-10's classes; train_cifar10.py: of all ten
    python benchmarks/ood.py --data uoft-cs/cifar10 --photos data/imagenet-val --fashion runs/ood/fashion \\
        --far textures=runs/ood/textures --classifier runs/cifar10_recipes/{baseline,diffaug}-? \\
        runs/cifar10_recipes/known_classes-?/{baseline,diffaug}-?

Near sets: `--photos`, ImageNet's photos of classes that CIFAR-10 lacks, about as sharp as CIFAR-10 where resized by the
bilinear filter (`--filters bilinear lanczos` shows what sharpness does); for a classifier that knows some of the
classes only the others, `unknown classes`, and no other set. Far sets: Fashion-MNIST and textures (see ood_inputs.py),
noise. Further ones are a folder of images of any size, a Hub id, or a folder in the Hub's layout:
`--near cifar100=uoft-cs/cifar100 tin=data/tiny-imagenet/test`, `--far svhn=data/svhn`; for ImageNet's classifiers
`--size 224 --resize 256 --data imagenet-1k --near ssb_hard=data/ssb_hard ninco=data/ninco --far textures=data/dtd`.
Writes the records as JSON, tables as Markdown beside it, and a picture of the sets and of their scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from ood_inputs import (
    FILTERS,
    Case,
    Images,
    known_classes,
    load,
    noise_sets,
    read_fashion,
    read_hub,
    read_photos,
    read_set,
    split_known,
)
from ood_picture import Judged, Scores, draw_sets
from ood_tables import all_tables
from records import Record, write_results
from shift_inputs import open_classifier
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms.robustness import OOD_METHODS, OODDetector, aupr, auroc, fpr95
from diffaug_transforms.robustness.shift_sets import ShiftSet

METRICS = {"auroc": auroc, "fpr95": fpr95, "aupr": aupr}
BATCH = 500


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="in distribution: Hub id or folder in its layout")
    parser.add_argument("--classifier", nargs="+", required=True, help="as covariate_shift.py takes them")
    parser.add_argument("--photos", help="ImageNet, Hub id or folder in its layout; its test or validation split")
    parser.add_argument("--filters", nargs="+", choices=FILTERS, default=["bilinear"], help="that resize the photos")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's t10k-images-idx3-ubyte.gz")
    parser.add_argument("--near", nargs="+", action="extend", default=[], metavar="NAME=DATA", help="see above")
    parser.add_argument("--far", nargs="+", action="extend", default=[], metavar="NAME=DATA", help="see above")
    parser.add_argument("--size", type=int, default=32, help="of the classifiers' images, in pixels")
    parser.add_argument("--resize", type=int, help="the shorter side before the centre is cut out; default: --size")
    parser.add_argument("--images", type=int, help="in-distribution test images; default: all")
    parser.add_argument("--fit-images", type=int, default=1000, help="training images that ReAct is fitted to")
    parser.add_argument("--limit", type=int, default=2000, help="images of an OOD set at most")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/ood.json")
    return parser.parse_args()


def read_sets(args: argparse.Namespace) -> list[Images]:
    """All OOD sets of classifiers that know all classes."""
    cut = (args.size, args.resize or args.size)
    filters = args.filters if args.photos else []
    sets: list[tuple[str, ShiftSet]] = [("near", read_photos(args.photos, *cut, filter)) for filter in filters]
    sets += [("near", read_set(*parse_named(item), *cut)) for item in args.near]
    sets += [("far", read_set(*parse_named(item), *cut)) for item in args.far]
    if args.fashion:
        sets.append(("far", read_fashion(args.fashion, args.size)))
    return [load(images, distance, args.limit) for distance, images in sets] + noise_sets(args.limit, args.size)


def parse_named(item: str) -> tuple[str, str]:
    name, equals, data = item.partition("=")
    if not (name and equals and data):
        raise ValueError(f"a set must be NAME=DATA. Got {item!r}")
    return name, data


@torch.inference_mode()
def features_of(detector: OODDetector, pixels: Tensor, name: str) -> Tensor:
    device = next(detector.classifier.parameters()).device
    parts = tqdm(pixels.split(BATCH), desc=name, leave=False)
    return torch.cat([detector.features(part.to(device)).float() for part in parts])


@torch.inference_mode()
def judge(classifier: nn.Module, case: Case) -> tuple[list[Record], dict[str, Scores]]:
    """Accuracy on the known classes, then every metric of every method and set; and each set's scores."""
    plain = OODDetector(classifier, method="msp")
    inside = features_of(plain, case.known.pixels, case.known.name)
    fit = features_of(plain, case.fit, "fit")
    right = classifier.get_submodule(plain.layer)(inside).argmax(1).cpu() == case.labels
    n_id = len(right)
    records = [record(case.known, "", None, "accuracy", right.float().mean().item(), n_id)]
    scores: dict[str, Scores] = {}
    for images in case.sets:
        outside = features_of(plain, images.pixels, images.name)
        scores[images.name] = {}
        for method in OOD_METHODS:
            detector = OODDetector(classifier, method=method).fit(fit)
            pair = scores[images.name][method] = (detector.score(inside).cpu(), detector.score(outside).cpu())
            for name, metric in METRICS.items():
                records.append(record(images, method, detector.percentile, name, metric(*pair), n_id))
    return records, scores


def record(images: Images, method: str, percentile: float | None, metric: str, fraction: float, n_id: int) -> Record:
    here: Record = {"dataset": images.name, "distance": images.distance, "method": method, "percentile": percentile}
    return {**here, "metric": metric, "value": round(100 * fraction, 3), "n": len(images.pixels), "n_id": n_id}


def make_case(args: argparse.Namespace, known: Sequence[str], names: Sequence[str], test: ShiftSet) -> Case:
    cut = (args.size, args.resize or args.size)
    train, _ = read_hub("fit", args.data, *cut, split="train")
    inside, outside = split_known(test, names, known)
    fit = load(split_known(train, names, known)[0], "id", args.fit_images)
    labels = torch.tensor([label for (label,) in inside.labels])
    sets = [load(outside, "near", args.limit)] if len(outside) else read_sets(args)
    return Case(load(inside, "id"), labels, fit.pixels, sets)


def run(args: argparse.Namespace) -> tuple[list[Record], list[Judged]]:
    """The records; and what each classifier said of each set, for the picture."""
    test, names = read_hub(Path(args.data).name, args.data, args.size, args.resize or args.size)
    test = test.subset(args.images) if args.images else test
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases: dict[tuple[str, ...], Case] = {}
    records: list[Record] = []
    judged: list[Judged] = []
    for spec in tqdm(args.classifier, desc="classifiers"):
        classifier, fields = open_classifier(spec)
        known = tuple(known_classes(spec, names))
        if known not in cases:
            cases[known] = make_case(args, known, names, test)
        case = cases[known]
        measured, scores = judge(classifier.to(device), case)
        records += [{"benchmark": "ood", **fields, "classes": len(known), **r} for r in measured]
        judged += [Judged(fields["recipe"], fields["seed"], case.known, s, scores[s.name]) for s in case.sets]
    return records, judged


def main() -> None:
    args = parse_arguments()
    records, judged = run(args)
    path = write_results(__file__, records, args.output)
    path.with_suffix(".md").write_text(all_tables(records))
    draw_sets(judged, path.with_suffix(".png"))
    print(all_tables(records))


if __name__ == "__main__":
    main()
