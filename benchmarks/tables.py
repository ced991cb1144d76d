"""Make the tables of the README, the model card and the documentation from benchmarks/results/: none is typed.

python benchmarks/tables.py            # rewrite what stands between <!-- table NAME --> and <!-- end -->
python benchmarks/tables.py --check    # exit 1 if a table is not what the results say
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from certify_tables import certify_table, coverage_table, entropy_table, sigmas_table
from cost_tables import bytes_table, disk_table, hours_table, operations_table
from gradient_tables import gradient_effect, gradient_table, jacobian_table
from guidance_tables import accuracy_table, alignment_table, cost_table, guidance_table
from headline_table import headline_table
from ood_tables import degraded_table, far_table, fpr_table, near_table, sets_table
from pivots import FAMILIES, gains, mean_over_seeds, pick, rows, select, with_diffaug
from records import Record, read_records
from shift_tables import (
    anytime_table,
    families_table,
    guide_table,
    shift_table,
    speed_table,
    views_table,
    weights_table,
)

ROOT = Path(__file__).parent.parent
CARD = ROOT / "diffaug_transforms" / "assets" / "networks" / "cifar10" / "README.md"
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.S)


def pages() -> list[Path]:
    """The README, the model card and the documentation's sources; not what Sphinx built or copied there."""
    docs = sorted((ROOT / "docs").rglob("*.md"))
    own = [page for page in docs if not {"_build", "gallery"} & set(page.relative_to(ROOT).parts)]
    return [ROOT / "README.md", CARD, *own]


def main() -> int:
    stale = []
    for page in pages():
        text = page.read_text()
        fresh = MARKED.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)
        if fresh != text:
            stale.append(page)
            if "--check" not in sys.argv:
                page.write_text(fresh)
    print("\n".join(f"{'stale' if '--check' in sys.argv else 'rewrote'}: {page.relative_to(ROOT)}" for page in stale))
    return int("--check" in sys.argv and bool(stale))


def eps_mse() -> str:
    records = read_records("denoising")
    body = []
    for mode in ("unconditional", "conditional"):
        r = pick(records, metric="eps_mse", mode=mode)
        body.append([mode, f"{r['value']:.4f} ± {r['standard_error']:.4f}", str(r["n"])])
    return rows(["branch", "eps-MSE, t uniform over 0…999 (mean ± standard error)", "images"], body)


def psnr() -> str:
    records = read_records("denoising")
    steps = sorted({r["timestep"] for r in records if r["metric"] == "psnr"})
    body = []
    for mode, name in (("unconditional", "denoised"), ("noisy input", "noisy input")):
        values = [pick(records, metric="psnr", mode=mode, timestep=t)["value"] for t in steps]
        body.append([name, *(f"{value:.1f}" for value in values)])
    return rows(["PSNR (dB) at t =", *map(str, steps)], body)


def throughput() -> str:
    body = []
    for r in read_records("throughput"):
        if r["metric"] == "time_ratio":
            body.append([r["method"], f"{r['value']:.2f}", f"{r['size']} px, batch {r['batch_size']}, {r['dtype']}"])
        elif r["metric"] == "matmul_share":
            body.append(["share of the matmul ceiling", f"{100 * r['value']:.0f} %", f"{r['dtype']}, {r['method']}"])
        elif r["metric"] == "import_seconds_over_torchvision":
            body.append(["import, seconds over torchvision's", f"{r['value']:.3f}", f"median of {r['n']}"])
    return rows(["ratio of times", "value", "setting"], body)


COLUMNS = [(dataset, mode) for dataset in ("cifar10", "cifar10-c") for mode in ("default", "de")]
COLUMN_NAMES = ("clean, Default", "clean, DE", "corrupted, Default", "corrupted, DE")


def budget(records: Sequence[Record]) -> str:
    """What every recipe had: model, images, and the seconds that training took beside other work."""
    start, later = select(records, recipe="start"), [r for r in records if r["recipe"] != "start"]
    images = {r["images_seen"] for r in start}, {r["images_seen"] for r in later}
    (first,), (second,) = images
    seconds = sorted(r["seconds"] for r in later)
    return (
        f"Model {start[0]['model']}. The start: {first:,} images ({first / 50_000:.1f} passes over the training set), "
        f"{mean(r['seconds'] for r in start):.0f} s. Every recipe from there on: {second:,} images "
        f"({second / 50_000:.1f} passes), all views of each, {seconds[0]:.0f} to {seconds[-1]:.0f} s.\n\n"
    )


def recipes() -> str:
    records = read_records("train_cifar10")
    body = []
    for name in dict.fromkeys(r["recipe"] for r in records):
        own = select(records, recipe=name)
        columns = [select(own, dataset=d, mode=m) for d, m in COLUMNS]
        body.append([name, str(len({r["seed"] for r in own})), *map(mean_over_seeds, columns)])
    return budget(records) + rows(["recipe", "seeds", *COLUMN_NAMES], body)


def diffaug_effect() -> str:
    """Accuracy with DiffAug minus without, paired by seed, under each recipe."""
    records = read_records("train_cifar10")
    body = []
    for name in dict.fromkeys(r["recipe"] for r in records):
        other = with_diffaug(name)
        pair = select(records, recipe=name), select(records, recipe=other)
        if paired := gains(*pair, "seed", "dataset", "corruption", "mode"):
            columns = [select(paired, dataset=d, mode=m) for d, m in COLUMNS]
            body.append([f"{name} to {other}", *(mean_over_seeds(column, sign="+") for column in columns)])
    return rows(["from, to", *COLUMN_NAMES], body)


def corruption_families() -> str:
    records = [r for r in read_records("train_cifar10") if r["corruption"] != "clean"]
    body = []
    for name in ("baseline", "diffaug", "augmix", "augmix+diffaug"):
        for mode in ("default", "de"):
            own = select(records, recipe=name, mode=mode)
            families = [[r for r in own if r["corruption"] in members] for members in FAMILIES.values()]
            body.append([name, {"default": "Default", "de": "DE"}[mode], *map(mean_over_seeds, families)])
    return rows(["recipe", "mode", *FAMILIES], body)


def training_step() -> str:
    records = read_records("training_step")
    body = []
    for method in dict.fromkeys(r["method"] for r in records):
        value = {r["metric"]: r["value"] for r in records if r["method"] == method}
        ratios = [f"{value['time_ratio']:.1f}", f"{value['memory_ratio']:.2f}"]
        body.append([method, *ratios, f"{value['seconds_per_step']:.2f}", f"{value['peak_bytes'] / 2**30:.2f}"])
    return rows(["DiffAug", "time, ratio", "memory, ratio", "seconds a step", "peak GiB"], body)


def covariate_shift() -> str:
    return shift_table(read_records("covariate_shift_cifar10-c"))


def reference_dda() -> str:
    """The reference's guide at 32 pixels, with the network's start and with its own."""
    records = [r for r in read_records("covariate_shift_reference_dda") if r["mode"] not in ("de", "view")]
    return shift_table(records)


def photo_records() -> list[Record]:
    """Both runs on photos; Default is in both, and the raw image is a view of both."""
    more = read_records("covariate_shift_imagenet-sample-c_paper")
    new = [r for r in more if r["mode"] == "de" or (r["mode"] == "view" and r["timestep"])]
    return read_records("covariate_shift_imagenet-sample-c") + new


TABLES: dict[str, Callable[[], str]] = {
    "headline": lambda: headline_table(*map(read_records, ("train_cifar10", "certify", "ood"))),
    "eps_mse": eps_mse,
    "psnr": psnr,
    "throughput": throughput,
    "recipes": recipes,
    "diffaug_effect": diffaug_effect,
    "corruption_families": corruption_families,
    "training_step": training_step,
    "covariate_shift": covariate_shift,
    "reference_dda": reference_dda,
    "shift_families": lambda: families_table(read_records("covariate_shift_cifar10-c")),
    "dda_guide": lambda: guide_table(read_records("dda_guide")),
    "imagenet_sample": lambda: shift_table(photo_records()),
    "photo_views": lambda: views_table(photo_records()),
    "anytime": lambda: anytime_table(read_records("ensemble_rules")),
    "view_weights": lambda: weights_table(read_records("ensemble_rules")),
    "adaptation_speed": lambda: speed_table(read_records("adaptation_speed")),
    "certify": lambda: certify_table(read_records("certify")),
    "certify_sigmas": lambda: sigmas_table(read_records("certify")),
    "certify_coverage": lambda: coverage_table(read_records("certify_coverage")),
    "entropy_over_time": lambda: entropy_table(read_records("entropy_over_time")),
    "ood_near": lambda: near_table(read_records("ood")),
    "ood_far": lambda: far_table(read_records("ood")),
    "ood_fpr95": lambda: fpr_table(read_records("ood")),
    "ood_sets": lambda: sets_table(read_records("ood")),
    "ood_degraded": lambda: degraded_table(read_records("ood_degraded")),
    "gradient_scores": lambda: gradient_table(read_records("gradients"), "score_cosine"),
    "gradient_alignment": lambda: gradient_table(read_records("gradients"), "centred_cosine"),
    "gradient_effect": lambda: gradient_effect(read_records("gradients"), "score_cosine"),
    "jacobian": lambda: jacobian_table(read_records("jacobian")),
    "guidance": lambda: guidance_table(read_records("guidance")),
    "guidance_accuracy": lambda: accuracy_table(read_records("guidance")),
    "guidance_scratch": lambda: accuracy_table(read_records("guidance_from_scratch")),
    "guidance_scratch_alignment": lambda: alignment_table(read_records("guidance_from_scratch")),
    "guidance_alignment": lambda: alignment_table(read_records("guidance")),
    "guidance_cost": lambda: cost_table(read_records("guidance")),
    "imagenet_hours": lambda: hours_table(read_records("imagenet_cost")),
    "imagenet_operations": lambda: operations_table(read_records("imagenet_cost")),
    "imagenet_memory": lambda: bytes_table(read_records("imagenet_cost")),
    "imagenet_disk": lambda: disk_table(read_records("imagenet_cost")),
}

if __name__ == "__main__":
    sys.exit(main())
