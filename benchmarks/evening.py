"""One evening with photos of your own, as docs/evening.md has it: every command is run and timed.

    python -m benchmarks.evening photos --data DATA --folder photos       # or take your own, in photos/train and /test
    python -m benchmarks.evening --folder photos --work runs/evening      # in an environment with ".[train,benchmarks]"

photos: writes photos of ImageNet in six classes, which no ImageNet classifier has, from a Hub id or a folder in the
Hub's layout whose labels are ImageNet's. Every fifth photo is for testing: `photos` was not trained on those.

Without it, the commands run in --work, which should be new, because a command that finds its results does nothing.
Writes a record for the time of each command, and the accuracies that `diffaug evaluate` found.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from diffaug_transforms.robustness.evaluation.sets import HubImages

from .harness.options import script_parser
from .harness.records import RESULTS, Record, write_results

#: Labels of ImageNet by the class that they have here: first and last of each range.
CLASSES = {
    "bird": ((7, 24), (80, 100), (127, 146)),
    "dog": ((151, 268),),
    "food": ((924, 969),),
    "insect": ((69, 79), (300, 326)),
    "mammal": ((101, 106), (269, 299), (330, 388)),
    "reptile": ((25, 68),),
}
#: A photo with a place that this divides is for testing.
TEST_EVERY = 5
MODEL = "timm/tf_efficientnet_lite0"
TRAIN = f"python examples/train_classifier.py --data photos --model {MODEL} --size 224 --batch-size 16 --lr 0.01"
EVALUATE = "diffaug evaluate runs/{0} photos --modes default,purify --output evaluated/{0}"
#: What is done, and the command. {start} stands for where the ImageNet weights are from.
STEPS = {
    "demo": "diffaug demo",
    "look at a photo": "diffaug show photos/test/dog/155.jpg --output shown.png",
    "fine-tune": f"{TRAIN} --recipe baseline --steps 60 {{start}} --output runs/own",
    "how robust is it?": EVALUATE.format("own"),
    "train on with DiffAug": f"{TRAIN} --recipe diffaug --steps 60 --init runs/own --output runs/with_diffaug",
    "is it better now?": EVALUATE.format("with_diffaug"),
    "train on without DiffAug": f"{TRAIN} --recipe baseline --steps 60 --init runs/own --output runs/without_diffaug",
    "is it DiffAug, or only the training?": EVALUATE.format("without_diffaug"),
}


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, data="", work=Path("runs/evening"), output=RESULTS / "evening.json")
    parser.add_argument("what", nargs="?", choices=("photos", "commands"), default="commands")
    parser.add_argument("--folder", type=Path, required=True, help="of the photos")
    parser.add_argument("--init", type=Path, help="file of ImageNet weights; default: timm downloads them")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.what == "photos":
        write_photos(args.data, args.folder)
    else:
        write_results("evening", run(args), args.output)


def write_photos(data: str, folder: Path) -> None:
    """folder/train/bird/007.jpg and folder/test/..., named by ImageNet's labels."""
    images = HubImages(data)
    own = {label: name for name, spans in CLASSES.items() for label in chain(*(range(a, b + 1) for a, b in spans))}
    for place, label in enumerate(tqdm(images.targets, desc="photos")):
        if name := own.get(label):
            path = folder / ("train" if place % TEST_EVERY else "test") / name / f"{label:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            F.to_pil_image(images[place][0]).save(path, quality=95)


def run(args: argparse.Namespace) -> list[Record]:
    """Run all steps. A record of the seconds for each, and the records of the evaluations."""
    work = args.work.resolve()
    work.mkdir(parents=True)
    for name, source in {"photos": args.folder, "examples": Path(__file__).parent.parent / "examples"}.items():
        (work / name).symlink_to(source.resolve())
    start = f"--init {shlex.quote(str(args.init.resolve()))}" if args.init else "--pretrained"
    common = {"benchmark": "evening", "photos": len(list(work.glob("photos/train/*/*")))}
    records: list[Record] = []
    for step, command in STEPS.items():
        seconds = timed(command.format(start=start), work)
        records.append({**common, "step": step, "metric": "seconds", "value": round(seconds, 1), "n": 1})
        print(f"{step}: {seconds:.0f} s", flush=True)
    for path in sorted(work.glob("evaluated/*/records.json")):
        found: list[Record] = json.loads(path.read_text())["records"]
        records += [{**record, **common, "step": path.parent.name} for record in found]
    return records


def timed(command: str, folder: Path) -> float:
    """The seconds that a command takes. Its messages go to a file in the folder. CalledProcessError if it fails."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "log.txt").open("a") as log:
        print(f"$ {command}", file=log, flush=True)
        began = time.perf_counter()
        subprocess.run(shlex.split(command), cwd=folder, env=environment, stdout=log, stderr=log, check=True)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
