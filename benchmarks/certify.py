"""Certified accuracy by denoised smoothing: the paper's table, for classifiers with and without DiffAug.

    python -m benchmarks.certify --classifier runs/cifar10_recipes/{baseline,diffaug}-{0,1,2} --images 100
    python -m benchmarks.certify --classifier runs/cifar10_recipes/{baseline,diffaug}-{0,1,2} --images 200   # adds 100
    python -m benchmarks.certify --dataset imagenet --data data/photos --every 5 --network photos ffdnet \\
        --classifier efficientnet_lite0 --sigmas .25 .5 --images 50 --n0 20 --n 100
    python -m benchmarks.certify coverage

Every classifier votes on the same denoised draws. Each image's votes are kept under --work, so a stopped run resumes.
Votes are used again only for the same options, weights, image and versions. Writes every certificate as a record, and
beside them the curve of certified accuracy over the radius.

coverage: how often a certificate is wrong. CERTIFY runs on simulated votes, whose probabilities are known. It fails if
its radius exceeds sigma * Phi^-1(p), p the true probability of its class; with p below 1/2 every radius does. It may
fail with probability of at most failure_probability, over the draws of both steps.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from itertools import chain, islice, product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms.robustness import ABSTAIN, DenoisedSmoothing
from diffaug_transforms.robustness.datasets import random_subset
from diffaug_transforms.robustness.evaluation.batches import ahead, pin, places_in_full
from diffaug_transforms.robustness.evaluation.digests import digest, digest_of_classifier, digest_of_network
from diffaug_transforms.robustness.evaluation.records import kept
from diffaug_transforms.robustness.evaluation.sets import Images
from diffaug_transforms.robustness.smoothing import certify_votes
from diffaug_transforms.score import Denoiser

from .harness.classifiers import open_classifiers
from .harness.data import check_classes, every_nth, open_set
from .harness.options import default_device, positive_float, positive_int, script_parser
from .harness.pictures import new_figure, save_figure
from .harness.records import RESULTS, Record, write_results
from .harness.tables import frame
from .tables.certificates import at_radius

#: Classifier's name to votes of the choosing draws and of the bounding draws, each (K,).
Votes = dict[str, tuple[list[int], list[int]]]
#: In coverage: of the most probable class. The others share the rest equally.
PROBABILITIES = (0.5, 0.52, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995)


def parse_arguments() -> argparse.Namespace:
    work = Path("runs/certify")
    parser = script_parser(__doc__, data="uoft-cs/cifar10", network=["cifar10"], images=100, seed=0, work=work)
    parser.add_argument("what", nargs="?", choices=("certificates", "coverage"), default="certificates")
    parser.add_argument("--classifier", nargs="+", help="as benchmarks.covariate_shift takes them")
    parser.add_argument("--dataset", choices=("cifar10", "imagenet"), default="cifar10")
    parser.add_argument("--every", type=positive_int, default=1, help="only every Nth image, from the first on")
    parser.add_argument("--sigmas", nargs="+", type=positive_float, default=[0.25, 0.5, 1.0], help="on [0, 1] pixels")
    parser.add_argument("--n0", type=positive_int, default=100, help="draws that choose the class")
    parser.add_argument(
        "--n", type=positive_int, help="draws that bound its probability; default: 10,000, coverage 1000"
    )
    parser.add_argument(
        "--failure-probability", nargs="+", type=positive_float, help="default: 0.001; coverage 0.001 0.05"
    )
    parser.add_argument("--amp", action="store_true", help="classifiers run under bfloat16 autocast")
    parser.add_argument("--max-batch", type=positive_int, default=100, help="largest batch of draws on the device")
    parser.add_argument("--simulations", type=positive_int, default=1_000_000, help="certificates for each probability")
    parser.add_argument("--classes", type=positive_int, default=10, help="of simulated votes")
    parser.add_argument("--output", type=Path, help="default: certify.json or certify_coverage.json in results/")
    args = parser.parse_args()
    if args.what == "certificates" and not args.classifier:
        parser.error("certificates need --classifier")
    return args


def main() -> None:
    args = parse_arguments()
    if args.what == "coverage":
        args.n = args.n or 1000
        levels = args.failure_probability or [0.001, 0.05]
        records = [r for level in levels for p in PROBABILITIES for r in simulate(p, level, args)]
        write_results("certify", records, args.output or RESULTS / "certify_coverage.json")
        return
    args.n = args.n or 10_000
    (args.failure_probability,) = args.failure_probability or [0.001]
    records = run(args)
    path = args.output or RESULTS / "certify.json"
    write_results("certify", records, path)
    plot_curves(records, path.with_suffix(".png"))


def run(args: argparse.Namespace) -> list[Record]:
    classifiers, fields = open_classifiers(args.classifier, default_device(), args.amp)
    images = random_subset(every_nth(open_set(args.dataset, args.data), args.every), args.images)
    check_classes(images, classifiers)
    return [record for network in args.network for record in certify(network, images, classifiers, fields, args)]


def certify(
    network: str,
    images: Images,
    classifiers: dict[str, nn.Module],
    fields: dict[str, dict[str, Any]],
    args: argparse.Namespace,
) -> list[Record]:
    """The certificates of all classifiers at all images and sigmas, with one network."""
    denoiser = Denoiser(network, max_batch=args.max_batch)
    common = {"benchmark": "certify", "dataset": args.dataset, "network": network, "mode": "smoothed"}
    common |= {"metric": "certified_radius", "draws": args.n, "failure_probability": args.failure_probability}
    digests = [digest_of_classifier(classifier, fields[spec]) for spec, classifier in classifiers.items()]
    settings = {"network": network, "n0": args.n0, "n": args.n, "seed": args.seed, "classifiers": args.classifier}
    settings |= {"weights": digest(digest_of_network(denoiser.network), *digests)}
    records: list[Record] = []
    # Image by image, so that a run that is stopped has all sigmas of those it has.
    every = list(product(enumerate(places_in_full(images)), reached_sigmas(network, denoiser, args.sigmas)))
    for (i, place), sigma in tqdm(every, unit="certificate", desc=network):
        image, label = images[i]
        votes = votes_on(image, place, sigma, denoiser, classifiers, args, settings)
        for spec, certificate in certificates(votes, sigma, int(label), args).items():
            records.append({**common, **fields[spec], "sigma": sigma, "image": place, **certificate})
    return records


def reached_sigmas(name: str, denoiser: Denoiser, sigmas: Sequence[float]) -> list[float]:
    """Those that the network knows. The others are printed: FFDNet ends at 0.29."""
    reached = []
    for sigma in sigmas:
        try:
            _ = DenoisedSmoothing(nn.Identity(), denoiser, sigma).timestep
            reached.append(sigma)
        except ValueError as error:
            print(f"{name} is left out at sigma {sigma:g}: {error}")
    return reached


def votes_on(
    image: Tensor,
    place: int,
    sigma: float,
    denoiser: Denoiser,
    classifiers: dict[str, nn.Module],
    args: argparse.Namespace,
    settings: Record,
) -> Votes:
    """The votes on one image, uint8 (C, H, W), from its file under --work if it is there.

    ``place``, the image's in the full test set, seeds its draws, which all networks and sigmas share. ``settings`` is
    all that the votes on every image depend on.
    """
    device = default_device()

    def make() -> Votes:
        generator = torch.Generator().manual_seed(hash((args.seed, place)) % 2**63)
        smoothed = DenoisedSmoothing(nn.Identity(), denoiser, sigma, generator=generator)
        # They are drawn on the CPU, so that they are the same for every device.
        parts = ahead(map(pin, chain.from_iterable(smoothed.draw_noise(image, n) for n in (args.n0, args.n))))
        draws = (part.to(device, non_blocking=True) for part in parts)
        choosing = islice(draws, -(-args.n0 // (denoiser.max_batch or args.n0)))
        pixels = image.to(device).float() / 255
        first, second = (count_votes(smoothed, classifiers, pixels, noise) for noise in (choosing, draws))
        return {name: (first[name], second[name]) for name in classifiers}

    settings = {**settings, "sigma": sigma, "image": digest(image), "device": device.type}
    folder = args.work / args.dataset / Path(settings["network"]).stem / f"sigma-{sigma:g}"
    votes: Votes = kept(folder / f"{place}.pt", settings, make)
    return votes


@torch.inference_mode()
def count_votes(
    smoothed: DenoisedSmoothing, classifiers: dict[str, nn.Module], image: Tensor, noise: Iterable[Tensor]
) -> dict[str, list[int]]:
    """Each classifier's votes (K,) over draws of one image, float32 (C, H, W). ``noise`` is ``draw_noise``'s.

    The votes are counted on the image's device, which is not waited for before the last draw.
    """
    votes: dict[str, list[Tensor]] = {name: [] for name in classifiers}
    for part in noise:
        views = smoothed.denoise(image.expand(len(part), -1, -1, -1), part)
        for name, classifier in classifiers.items():
            logits = classifier(views)
            classes = torch.arange(logits.shape[1], device=logits.device)
            votes[name].append((logits.argmax(1, keepdim=True) == classes).sum(0))
    return {name: torch.stack(counts).sum(0).tolist() for name, counts in votes.items()}


def certificates(votes: Votes, sigma: float, label: int, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each classifier's certificate at one image."""
    made = {}
    for name, (first, second) in votes.items():
        chosen = max(range(len(first)), key=first.__getitem__)
        prediction, radius = certify_votes(chosen, second[chosen], args.n, sigma, args.failure_probability)
        floored = math.floor(10_000 * radius) / 10_000  # a radius is never rounded up
        made[name] = {"prediction": prediction, "label": label, "value": floored}
    return made


def plot_curves(records: Sequence[Record], path: Path) -> None:
    """A panel for each sigma, a curve for each recipe and network over all seeds' certificates together."""
    every = frame(records)
    if every.network.nunique() > 1:
        every = every.assign(recipe=every.recipe + ", " + every.network)
    sigmas = sorted(every.sigma.unique())
    figure, panels = new_figure(1, len(sigmas), (9, 3.4), sharey=True)
    for panel, sigma in zip(panels[0], sigmas):
        here = every[every.sigma == sigma]
        radii = np.linspace(0, 1.02 * here.value.max(), 200)
        for i, recipe in enumerate(here.recipe.unique()):
            curve = [at_radius(here[here.recipe == recipe], radius).value.mean() for radius in radii]
            panel.plot(radii, curve, "-" if "diffaug" in recipe else "--", color=f"C{i}", label=recipe)
        panel.set(xlabel="l2 radius (pixels in [0, 1])", title=f"sigma {sigma:g}", ylim=(0, None))
    panels[0, 0].set_ylabel("certified accuracy (%)")
    panels[0, -1].legend()
    save_figure(figure, path)


def simulate(probability: float, failure_probability: float, args: argparse.Namespace) -> list[Record]:
    """Shares of certificates that fail, that abstain, and the mean radius of the others over the true one (sigma 1)."""
    chosen, counts = draw_votes(probability, args)
    of_count = [certify_votes(0, count, args.n, 1.0, failure_probability) for count in range(args.n + 1)]
    certified = np.array([certificate.prediction != ABSTAIN for certificate in of_count])[counts]
    radii = np.array([certificate.radius for certificate in of_count])[counts]
    phi_inverse = NormalDist().inv_cdf
    true_radii = np.where(chosen == 0, phi_inverse(probability), phi_inverse((1 - probability) / (args.classes - 1)))
    fails = certified & ((radii > true_radii) | (true_radii < 0))
    common = {"benchmark": "certify_coverage", "probability": probability, "failure_probability": failure_probability}
    common |= {"n0": args.n0, "draws": args.n, "seed": args.seed, "n": args.simulations}
    values = {"failed": fails.mean(), "abstained": 1 - certified.mean()}
    if certified.any() and probability > 0.5:
        values["radius_ratio"] = radii[certified].mean() / phi_inverse(probability)
    records = [{**common, "metric": metric, "value": round(float(value), 6)} for metric, value in values.items()]
    records[0]["standard_error"] = round(float(fails.std()) / len(fails) ** 0.5, 7)
    return records


def draw_votes(probability: float, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """The chosen class of each certificate, and how many of the bounding draws it won. Class 0 is the probable one."""
    rng = np.random.default_rng(args.seed)
    p = [probability, *[(1 - probability) / (args.classes - 1)] * (args.classes - 1)]
    chosen = rng.multinomial(args.n0, p, args.simulations).argmax(1)
    return chosen, rng.multinomial(args.n, p, args.simulations)[np.arange(args.simulations), chosen]


if __name__ == "__main__":
    main()
