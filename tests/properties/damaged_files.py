"""Damaged files: each trial cuts a file short or changes one byte, and loads it.

python -m tests.properties.damaged_files --trials 1500     # writes benchmarks/results/damaged_files.json
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.options import script_parser
from benchmarks.harness.records import RESULTS, write_results
from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.classifiers import (
    NormalizedClassifier,
    build_model,
    load_classifier,
    load_weights,
    save_classifier,
)
from diffaug_transforms.score import NoiseSchedule
from tests.conftest import tiny_unet

from .judge import CLEAR, RIGHT, THIRD, judge_error

#: A changed byte in a JSON file may be another value, as if somebody had edited it.
EDITED = "read as an edited JSON file"
DAMAGE = ("cut short", "one bit changed")
Load = Callable[[Path], Tensor]


def network_answer(folder: Path) -> Tensor:
    x_t = torch.linspace(-2, 2, 3 * 16 * 16).reshape(1, 3, 16, 16)
    return load_score_network(folder)(x_t, torch.tensor([300]))


def classifier_answer(folder: Path) -> Tensor:
    return load_classifier(folder)(torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16))


def pickle_answer(folder: Path) -> Tensor:
    model = build_model("cifar_resnet-8", 5).eval()
    load_weights(model, folder / "weights.pt")
    return model(torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16))


def write_folders(root: Path) -> dict[str, Load]:
    """Folders as the package writes them, and a ``.pt`` file as training scripts do; what each answers when loaded."""
    torch.manual_seed(0)
    ScoreNetwork(tiny_unet(), NoiseSchedule.named("linear")).save_pretrained(root / "score network")
    model = build_model("cifar_resnet-8", 5).eval()
    classifier = NormalizedClassifier(model, [0.5] * 3, [0.25] * 3)
    save_classifier(classifier, root / "classifier", "cifar_resnet-8", classes=[*"abcde"])
    (root / "weights in a .pt file").mkdir()
    torch.save(model.state_dict(), root / "weights in a .pt file" / "weights.pt")
    return {
        "score network": network_answer,
        "classifier": classifier_answer,
        "weights in a .pt file": pickle_answer,
    }


def damage(path: Path, how: str, choose: random.Random) -> None:
    """Cut a file at a random place, or change one bit of a random byte."""
    content = bytearray(path.read_bytes())
    place = choose.randrange(len(content))
    if how == "cut short":
        content = content[:place]
    else:
        content[place] ^= 1 << choose.randrange(8)
    path.write_bytes(content)


def verdict_on(load: Load, folder: Path, expected: Tensor, is_json: bool) -> tuple[str, str]:
    """The verdict on one damaged folder, and what is wrong."""
    try:
        with torch.no_grad():
            answer = load(folder)
    except Exception as error:
        verdict = judge_error(error)
        return verdict.kind, verdict.reason
    if answer.shape == expected.shape and torch.equal(answer, expected):
        return RIGHT, ""
    return (EDITED, "") if is_json and answer.isfinite().all() else (THIRD, "another answer, without a word")


def try_folder(load: Load, whole: Path, how: str, trials: int, seed: int) -> Counter[tuple[str, str]]:
    """Verdicts on ``trials`` damaged copies of a folder."""
    choose, expected = random.Random(seed), load(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    found: Counter[tuple[str, str]] = Counter()
    for _ in range(trials):
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "copy"
            shutil.copytree(whole, folder)
            name = choose.choice(files)
            damage(folder / name, how, choose)
            found[verdict_on(load, folder, expected, name.suffix == ".json")] += 1
    return found


def main() -> int:
    parser = script_parser(__doc__, seed=1, output=RESULTS / "damaged_files.json")
    parser.add_argument("--trials", type=int, default=1500, help="over all files and both kinds of damage")
    arguments = parser.parse_args()
    records: list[dict[str, Any]] = []
    faults = 0
    with tempfile.TemporaryDirectory() as root:
        loads = write_folders(Path(root))
        number = -(-arguments.trials // (len(DAMAGE) * len(loads)))
        for name, load in loads.items():
            for how in DAMAGE:
                found = try_folder(load, Path(root) / name, how, number, arguments.seed)
                common = {"benchmark": "damaged_files", "part": name, "method": how, "n": number}
                for metric in (RIGHT, CLEAR, EDITED, THIRD):
                    value = sum(count for (kind, _), count in found.items() if kind == metric)
                    records.append({**common, "seed": arguments.seed, "metric": metric, "value": value})
                print(name, how, dict(found), flush=True)
                faults += sum(count for (kind, _), count in found.items() if kind == THIRD)
    write_results("damaged_files", records, arguments.output, module="tests.properties.damaged_files")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
