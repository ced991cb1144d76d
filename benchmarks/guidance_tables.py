"""The tables of classifier guidance, as Markdown, from guidance.py's records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from pivots import gains, pick, rows, select
from records import Record

#: Metric to heading and digits; better is lower for the first two, higher for the others.
COLUMNS = {
    "fid": ("FID", 2),
    "sfid": ("sFID", 2),
    "inception_score": ("IS", 2),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "density": ("density", 3),
    "coverage": ("coverage", 3),
    "label_accuracy": ("of its class (%)", 1),
}


def title(fields: Record) -> str:
    """The name of a way of guidance: its recipe, and the derivative where there are two."""
    recipe: str = fields["recipe"]
    return f"{recipe}, {fields['mode']}" if recipe == "denoise-augmented" else recipe


def guidance_table(records: Sequence[Record]) -> str:
    """The paper's table: a line for each way and scale, mean ± standard error over classifiers' seeds."""
    samples = [r for r in records if r["metric"] in COLUMNS]
    body = []
    for name, scale in dict.fromkeys((title(r), r["scale"]) for r in samples):
        own = [r for r in samples if (title(r), r["scale"]) == (name, scale)]
        judged = select(records, recipe=own[0]["recipe"], metric="accuracy", quarter=0, mode="diffused")
        cells = [_cell(select(own, metric=metric), digits) for metric, (_, digits) in COLUMNS.items()]
        body.append([name, "" if name == "real images" else f"{scale:g}", _cell(judged, 1), *cells])
    header = ["guidance", "scale", "accuracy (%)", *(heading for heading, _ in COLUMNS.values())]
    return _note(samples) + rows(header, body)


def accuracy_table(records: Sequence[Record]) -> str:
    """Accuracy in percent at one uniform random time for each image, and by quarter of the times."""
    own = [r for r in records if r["mode"] == "diffused"]
    quarters = sorted({r["quarter"] for r in own})
    names = {0: "all t", 1: "first quarter", 2: "second", 3: "third", 4: "last"}
    body = [
        [recipe, *(_cell(select(own, recipe=recipe, quarter=q), 1) for q in quarters)]
        for recipe in dict.fromkeys(r["recipe"] for r in own)
    ]
    gain = gains(select(own, recipe="noisy"), select(own, recipe="denoise-augmented"), "seed", "quarter")
    if gain:
        body.append(["the latter's gain", *(_cell(select(gain, quarter=q), 1, "+") for q in quarters)])
    return rows(["classifier", *(names[q] for q in quarters)], body)


def alignment_table(records: Sequence[Record], metric: str = "score_cosine", digits: int = 3) -> str:
    """A metric of the gradients over t: a line for each classifier and derivative."""
    own = select(records, metric=metric)
    steps = sorted({r["timestep"] for r in own})
    body = []
    for name in dict.fromkeys(map(title, own)):
        line = [r for r in own if title(r) == name]
        body.append([name, *(_cell(select(line, timestep=t), digits) for t in steps)])
    gain = gains(select(own, recipe="noisy"), select(own, recipe="denoise-augmented", mode="total"), "seed", "timestep")
    if gain:
        body.append(["total over noisy", *(_cell(select(gain, timestep=t), digits, "+") for t in steps)])
    return rows(["gradient", *(f"t = {t}" for t in steps)], body)


def cost_table(records: Sequence[Record]) -> str:
    """What one gradient costs: time and memory as multiples of the partial derivative's, and in themselves."""
    own = select(records, mode="cost")
    body = []
    for name in dict.fromkeys(r["recipe"] for r in own):
        value = {metric: pick(own, recipe=name, metric=metric)["value"] for metric in {r["metric"] for r in own}}
        ratios = [f"{value['time_ratio']:.2f}", f"{value['memory_ratio']:.2f}"]
        body.append([name, *ratios, f"{1000 * value['seconds_per_image']:.1f}", f"{value['peak_bytes'] / 2**20:.1f}"])
    return rows(["gradient", "time, ratio", "memory, ratio", "ms an image", "MiB an image"], body)


def _cell(records: Sequence[Record], digits: int, sign: str = "") -> str:
    """Mean over classifiers, with its standard error where there are several; "" of none."""
    values = [r["value"] for r in records]
    if not values:
        return ""
    error = f" ± {stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.{digits}f}{error}"


def _note(samples: Sequence[Record]) -> str:
    own = [r for r in samples if r["recipe"] != "real images"]
    (extractor,), (reference,) = ({r[key] for r in samples} for key in ("extractor", "reference"))
    (sampler,), (number,), (against,) = ({r[key] for r in own} for key in ("sampler", "n", "n_reference"))
    (layer,) = {r["layer"] for r in samples if r["metric"] == "sfid"}
    return (
        f"Features: {extractor}, sFID's from its layer `{layer}`. {number:,} samples in each line, {sampler}, all with "
        f"the same noise, against {against:,} {reference} images.\n\n"
    )
