"""What the paper's ImageNet runs take in time, memory and disk: computed from operations and rates.

    python -m benchmarks.imagenet_cost                          # rates of gpu_hour.json, or an A100 at the shares below
    python -m benchmarks.imagenet_cost --assumed --gpu "H100 SXM" --peak-tflops 989 --utilisation 0.35

Operations are counted by torch's FlopCounterMode on the meta device, which computes no number; two for each
multiplication with its addition. Hours are operations over a rate. The rate is measured if the results of
benchmarks.gpu_hour are there: images a second of the U-Net and of the classifier. Otherwise it is ASSUMED: the GPU's
peak times the share of it that is assumed to be reached. Records say which in the field "rates". Several GPUs are
assumed to lose nothing. Memory is that of all tensors alive at once in bfloat16, without what a GPU's libraries and
allocator add.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from diffaug_transforms.files import read_json
from diffaug_transforms.images import ASSETS
from diffaug_transforms.score.memory import LiveBytes
from diffaug_transforms.score.openai import parse_flags, released_flags, unet_config

from .harness.options import positive_float, script_parser
from .harness.records import RESULTS, Record, write_results

SIZE = 224  # the paper's, for classifier and network: Resize 256, CenterCrop 224
PREPARED_SIZE = 256  # of prepared copies, which training crops to 224
BATCH = 256  # over all GPUs
TRAIN_IMAGES, TEST_IMAGES = 1_281_167, 50_000
SCRATCH, LATER = 90 * 5000 * BATCH, 50_000 * BATCH  # images of a training
SHIFTED, DRAWS = 15 * TEST_IMAGES, 3 * 1000 * 10_100

UNET, UNET_256, UNET_GRADIENT = "U-Net, 224 pixels", "U-Net, 256 pixels", "U-Net with its gradient, 224 pixels"
CLASSIFIER, TRAINING = "ResNet-50, 224 pixels", "ResNet-50 training, 224 pixels"
PHOTOS, STUDENT, STUDENT_TRAINING = "photos, 224 pixels", "student, 224 pixels", "student training, 256 pixels"
#: The student of docs/imagenet.md: examples/train_score_network.py with these widths, two blocks, without attention.
STUDENT_WIDTHS = (128, 256, 384, 512)
STUDENT_IMAGES = 10_240_000  # 40,000 steps of 256
#: Parts whose rate may be measured, and the methods of gpu_hour that measure them.
PARTS = {"unet": UNET, "classifier": CLASSIFIER, "training": TRAINING}
MEASURED = {"unet": "DiffAug, bfloat16", "classifier": "ResNet-50, inference", "training": "ResNet-50, training"}
#: How many images each part sees in each of the paper's runs. A view counts as an image in the classifier's training.
WORK: dict[str, dict[str, int]] = {
    "RN50 from scratch, no DiffAug": {TRAINING: SCRATCH},
    "RN50 from scratch, DiffAug in the loop": {UNET: SCRATCH, TRAINING: 2 * SCRATCH},
    "RN50 from scratch, DiffAug in the loop with the student": {STUDENT: SCRATCH, TRAINING: 2 * SCRATCH},
    "RN50 from scratch, DiffAug in the loop with photos": {PHOTOS: SCRATCH, TRAINING: 2 * SCRATCH},
    "training the student": {UNET_256: STUDENT_IMAGES, STUDENT_TRAINING: STUDENT_IMAGES},
    "RN50 from scratch, DiffAug prepared": {TRAINING: 2 * SCRATCH},
    "50,000 steps, clean and DiffAug": {UNET: LATER, TRAINING: 2 * LATER},
    "50,000 steps, clean, DeepAugment and DiffAug": {UNET: LATER, TRAINING: 3 * LATER},
    "50,000 steps, clean, two AugMix and DiffAug": {UNET: LATER, TRAINING: 4 * LATER},
    "diffaug augment, one copy": {UNET_256: TRAIN_IMAGES},
    "ImageNet-C, severity 5: Default": {CLASSIFIER: SHIFTED},
    "ImageNet-C, severity 5: DE": {UNET: 9 * SHIFTED, CLASSIFIER: 10 * SHIFTED},
    "ImageNet-C, severity 5: DDA and DDA-SE": {UNET_GRADIENT: 50 * SHIFTED, CLASSIFIER: 2 * SHIFTED},
    "certify 1,000 images, three sigmas": {UNET: DRAWS, CLASSIFIER: DRAWS},
}


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, output=RESULTS / "imagenet_cost.json")
    measured = "results of benchmarks.gpu_hour: their rates are taken if the file is there"
    parser.add_argument("--measured", type=Path, default=RESULTS / "gpu_hour.json", help=measured)
    parser.add_argument("--assumed", action="store_true", help="take the rates below even so")
    parser.add_argument("--gpu", default="A100 SXM", help="a name for the tables")
    parser.add_argument(
        "--peak-tflops", type=positive_float, default=312, help="of dense bfloat16 products, the maker's number"
    )
    parser.add_argument(
        "--utilisation", type=positive_float, default=0.4, help="share of it that the U-Net is assumed to reach"
    )
    parser.add_argument("--classifier-utilisation", type=positive_float, default=0.2, help="the same of the classifier")
    parser.add_argument("--jpeg-bytes", type=positive_float, default=0.7, help="of a prepared copy, a pixel, assumed")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    write_results("imagenet_cost", records(args), args.output)


def records(args: argparse.Namespace) -> list[Record]:
    unet, classifier = build_unet(), build_classifier()
    operations = operations_per_image(unet, classifier)
    common = {"benchmark": "imagenet_cost", "network": "imagenet256", "model": "resnet50", "n": 0, "seed": 0}
    rates = (None if args.assumed else measured_rates(args.measured)) or assumed_rates(args)
    speeds = operations_per_second(rates, operations)
    made = [{**common, "method": name, "metric": "flop_per_image", "value": n} for name, n in operations.items()]
    for name, work in WORK.items():
        spent = hours(work, operations, speeds)
        calls = sum(images for part, images in work.items() if part not in (CLASSIFIER, TRAINING, STUDENT_TRAINING))
        here = {**common, **rates, "method": name, "network_calls": calls}
        made += [{**here, "gpus": n, "metric": "hours", "value": spent / n} for n in (1, 8)]
    held = memory(unet, classifier)
    made += [{**common, "method": name, "metric": "bytes", "value": size} for name, size in held.items()]
    for name, per_pixel in {"JPEG": args.jpeg_bytes, "uncompressed": 3}.items():
        size = TRAIN_IMAGES * PREPARED_SIZE**2 * per_pixel
        made.append({**common, "method": name, "bytes_a_pixel": per_pixel, "metric": "disk_bytes", "value": size})
    return made


def measured_rates(path: Path) -> Record | None:
    """Images a second on a GPU, from the results of gpu_hour. None if the file, or one of the rates, is not there."""
    if not path.exists():
        return None
    results = json.loads(path.read_text())
    rates: Record = {"rates": "measured", "gpu": results["device"]}
    for part, method in MEASURED.items():
        speeds = [r for r in results["records"] if (r["method"], r["metric"]) == (method, "images_per_second")]
        speeds = [r for r in speeds if r["device"] != "cpu" and not r["tiny"]]
        if not speeds:
            return None
        fastest = max(speeds, key=lambda record: record["value"])
        rates |= {f"{part}_images_per_second": fastest["value"], f"{part}_batch_size": fastest["batch_size"]}
    return rates


def assumed_rates(args: argparse.Namespace) -> Record:
    assumed = {"rates": "assumed", "gpu": args.gpu, "peak_tflops": args.peak_tflops, "utilisation": args.utilisation}
    return assumed | {"classifier_utilisation": args.classifier_utilisation}


def operations_per_second(rates: Record, operations: dict[str, float]) -> dict[str, float]:
    """By part. All U-Nets have one rate, at both sizes and with gradients."""
    if rates["rates"] == "measured":
        at = {part: rates[f"{name}_images_per_second"] * operations[part] for name, part in PARTS.items()}
        return dict.fromkeys(operations, at[UNET]) | at
    unet, classifier = (rates["peak_tflops"] * 1e12 * rates[key] for key in ("utilisation", "classifier_utilisation"))
    return {part: classifier if part in (CLASSIFIER, TRAINING) else unet for part in operations}


def hours(work: dict[str, int], operations: dict[str, float], speeds: dict[str, float]) -> float:
    """On one GPU."""
    return sum(images * operations[part] / speeds[part] for part, images in work.items()) / 3600


def build_unet() -> nn.Module:
    """The U-Net of the card imagenet256, frozen, in bfloat16, without values."""
    from diffusers import UNet2DModel

    with torch.device("meta"):
        unet = UNet2DModel(**unet_config(parse_flags(released_flags()["diffusion_openai.pt"])))
    return nn.Module.to(unet, dtype=torch.bfloat16).requires_grad_(False).eval()


def build_unet_like(config: dict[str, Any], name: str) -> nn.Module:
    """A U-Net of a folder's configuration, in bfloat16, without values."""
    from diffaug_transforms.score.unet import build_unet

    return nn.Module.to(build_unet(config, name), dtype=torch.bfloat16)


def build_classifier() -> nn.Module:
    with torch.device("meta"):
        return resnet50().to(torch.bfloat16)


def operations_per_image(unet: nn.Module, classifier: nn.Module) -> dict[str, float]:
    """By part. The classifier's batch norms want two images in training."""
    return {
        **operations_of_small_networks(),
        UNET: count_operations(lambda: denoise(unet, 1)),
        UNET_256: count_operations(lambda: denoise(unet, 1, PREPARED_SIZE)),
        UNET_GRADIENT: count_operations(lambda: denoise(unet, 1, gradient=True)),
        CLASSIFIER: count_operations(lambda: classify(classifier, 2)) / 2,
        TRAINING: count_operations(lambda: train_step(classifier, 2)) / 2,
    }


def operations_of_small_networks() -> dict[str, float]:
    """Of the embedded network for photos, and of the student; its training is about three forward passes."""
    photos = build_unet_like(read_json(ASSETS / "networks" / "photos" / "unet" / "config.json"), "photos")
    blocks = {"down_block_types": ["DownBlock2D"] * 4, "up_block_types": ["UpBlock2D"] * 4, "add_attention": False}
    config = {"sample_size": 256, "patch_size": 2, "block_out_channels": STUDENT_WIDTHS, **blocks}
    student = build_unet_like({**config, "resnet_time_scale_shift": "scale_shift"}, "the student")
    return {
        PHOTOS: count_operations(lambda: denoise(photos, 1)),
        STUDENT: count_operations(lambda: denoise(student, 1)),
        STUDENT_TRAINING: count_operations(lambda: train_denoiser(student, PREPARED_SIZE)),
    }


def memory(unet: nn.Module, classifier: nn.Module) -> dict[str, float]:
    """Bytes by what holds them. Training keeps 14 bytes a weight: float32 weight, gradient, momentum, bfloat16 copy."""
    unet_weights, weights = (sum(p.numel() for p in model.parameters()) for model in (unet, classifier))
    return {
        "U-Net's weights, float32": 4 * unet_weights,
        "U-Net's weights, bfloat16": 2 * unet_weights,
        "U-Net's tensors, 32 images": count_peak_bytes(lambda: denoise(unet, 32)),
        "U-Net's tensors, 64 images": count_peak_bytes(lambda: denoise(unet, 64)),
        "U-Net's tensors with its gradient, 8 images": count_peak_bytes(lambda: denoise(unet, 8, gradient=True)),
        "ResNet-50's weights in training": 14 * weights,
        "ResNet-50's tensors, 32 images, 2 views": count_peak_bytes(lambda: train_step(classifier, 64)),
        "ResNet-50's tensors, 32 images, 4 views": count_peak_bytes(lambda: train_step(classifier, 128)),
        "ResNet-50's tensors, 256 images, 2 views": count_peak_bytes(lambda: train_step(classifier, 512)),
    }


def denoise(unet: nn.Module, number: int, size: int = SIZE, gradient: bool = False) -> None:
    """One call for each image; with its gradient by the noisy images, as DDA needs it."""
    with torch.set_grad_enabled(gradient):
        timesteps = torch.zeros(number, dtype=torch.int64, device="meta")
        output = unet(meta_images(number, size, requires_grad=gradient), timesteps).sample
        if gradient:
            output.sum().backward()


def train_denoiser(unet: nn.Module, size: int) -> None:
    unet(meta_images(1, size), torch.zeros(1, dtype=torch.int64, device="meta")).sample.sum().backward()


def train_step(classifier: nn.Module, number: int) -> None:
    classifier(meta_images(number, SIZE)).sum().backward()


@torch.no_grad()
def classify(classifier: nn.Module, number: int) -> None:
    classifier(meta_images(number, SIZE))


def meta_images(number: int, size: int, requires_grad: bool = False) -> Tensor:
    return torch.empty(number, 3, size, size, device="meta", dtype=torch.bfloat16, requires_grad=requires_grad)


def count_operations(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def count_peak_bytes(run: Callable[[], Any]) -> int:
    with LiveBytes() as counter:
        run()
    return counter.peak


if __name__ == "__main__":
    main()
