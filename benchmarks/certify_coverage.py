"""How often a certificate is wrong: CERTIFY on simulated votes, whose probabilities are known, against its promise.

    python benchmarks/certify_coverage.py

A certificate fails where its radius exceeds sigma * Phi^-1(p), p the true probability of its class: of one with p below
1/2 every radius does. It may fail with probability of at most failure_probability, over the draws of both steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import NormalDist

import numpy as np
from records import Record, write_results

from diffaug_transforms.robustness import ABSTAIN
from diffaug_transforms.robustness.certificates import certify_votes

#: Of the most probable class; the others share the rest equally.
PROBABILITIES = (0.5, 0.52, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", type=int, default=1_000_000, help="of each probability")
    parser.add_argument("--n0", type=int, default=100)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--failure-probabilities", nargs="+", type=float, default=[0.001, 0.05])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/certify_coverage.json")
    return parser.parse_args()


def draw_votes(probability: float, args: argparse.Namespace, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The chosen class of each certificate, and how many of the bounding draws it won. Class 0 is the probable one."""
    others = np.full(args.classes - 1, (1 - probability) / (args.classes - 1))
    p = np.concatenate([[probability], others])
    chosen = rng.multinomial(args.n0, p, args.certificates).argmax(1)
    return chosen, rng.multinomial(args.n, p, args.certificates)[np.arange(args.certificates), chosen]


def measure(probability: float, failure_probability: float, args: argparse.Namespace) -> list[Record]:
    """Shares of certificates that fail, that abstain, and the mean radius of the others over the true one (sigma 1)."""
    chosen, counts = draw_votes(probability, args, np.random.default_rng(args.seed))
    of_count = [certify_votes(0, count, args.n, 1.0, failure_probability) for count in range(args.n + 1)]
    certified = np.array([certificate.prediction != ABSTAIN for certificate in of_count])[counts]
    radii = np.array([certificate.radius for certificate in of_count])[counts]
    phi_inverse = NormalDist().inv_cdf
    true_radii = np.where(chosen == 0, phi_inverse(probability), phi_inverse((1 - probability) / (args.classes - 1)))
    fails = certified & ((radii > true_radii) | (true_radii < 0))
    common = {"benchmark": "certify_coverage", "probability": probability, "failure_probability": failure_probability}
    common |= {"n0": args.n0, "draws": args.n, "seed": args.seed, "n": args.certificates}
    error = round(float(fails.std()) / len(fails) ** 0.5, 7)
    records = [{**common, "metric": "failed", "value": fails.mean(), "standard_error": error}]
    records.append({**common, "metric": "abstained", "value": 1 - certified.mean()})
    if certified.any() and probability > 0.5:
        records.append(
            {**common, "metric": "radius_ratio", "value": radii[certified].mean() / phi_inverse(probability)}
        )
    return [{**r, "value": round(float(r["value"]), 6)} for r in records]


def main() -> None:
    args = parse_arguments()
    levels = args.failure_probabilities
    write_results(
        __file__, [r for level in levels for p in PROBABILITIES for r in measure(p, level, args)], args.output
    )


if __name__ == "__main__":
    main()
