"""What the paper's ImageNet runs take in time, memory and disk: computed, not measured.

    python -m benchmarks.imagenet_cost                                        # an A100 at the shares below
    python -m benchmarks.imagenet_cost --gpu "H100 SXM" --peak-tflops 989 --utilisation 0.35

Operations are counted by torch's FlopCounterMode on the meta device, where no number is ever computed; two for each
multiplication with its addition. Hours are operations over an ASSUMED rate: the GPU's peak times the share of it that
is assumed to be reached, and several GPUs are assumed to lose nothing. Memory is that of all tensors alive at once in
bfloat16, without what a GPU's libraries and allocator add. Nothing here has run on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from diffaug_transforms.score.openai import parse_flags, released_flags, unet_config

from .harness.options import script_parser
from .harness.records import RESULTS, Record, write_results

SIZE = 224  # the paper's, for classifier and network: Resize 256, CenterCrop 224
PREPARED_SIZE = 256  # of prepared copies, which training crops to 224
BATCH = 256  # over all GPUs
TRAIN_IMAGES, TEST_IMAGES = 1_281_167, 50_000
SCRATCH_STEPS, LATER_STEPS = 90 * 5000, 50_000


class Work(NamedTuple):
    """How often each part runs, in images."""

    unet: float = 0
    unet_prepared: float = 0
    unet_gradient: float = 0
    classifier_training: float = 0
    classifier: float = 0


def workloads() -> dict[str, Work]:
    """The paper's runs. A view of an image is one image of the classifier's training."""
    scratch, later = SCRATCH_STEPS * BATCH, LATER_STEPS * BATCH
    shifted = 15 * TEST_IMAGES
    return {
        "RN50 from scratch, no DiffAug": Work(classifier_training=scratch),
        "RN50 from scratch, DiffAug in the loop": Work(unet=scratch, classifier_training=2 * scratch),
        "RN50 from scratch, DiffAug prepared": Work(classifier_training=2 * scratch),
        "50,000 steps, clean and DiffAug": Work(unet=later, classifier_training=2 * later),
        "50,000 steps, clean, DeepAugment and DiffAug": Work(unet=later, classifier_training=3 * later),
        "50,000 steps, clean, two AugMix and DiffAug": Work(unet=later, classifier_training=4 * later),
        "diffaug augment, one copy": Work(unet_prepared=TRAIN_IMAGES),
        "ImageNet-C, severity 5: Default": Work(classifier=shifted),
        "ImageNet-C, severity 5: DE": Work(unet=9 * shifted, classifier=10 * shifted),
        "ImageNet-C, severity 5: DDA and DDA-SE": Work(unet_gradient=50 * shifted, classifier=2 * shifted),
        "certify 1,000 images, three sigmas": Work(unet=3 * 1000 * 10_100, classifier=3 * 1000 * 10_100),
    }


class LiveBytes(TorchDispatchMode):
    """The most bytes that the tensors made under it took at one time, as ``peak``; views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def main() -> None:
    args = parse_arguments()
    write_results("imagenet_cost", records(args), args.output)


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, output=RESULTS / "imagenet_cost.json")
    parser.add_argument("--gpu", default="A100 SXM", help="a name for the tables")
    parser.add_argument("--peak-tflops", type=float, default=312, help="of dense bfloat16 products, the maker's number")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of it that the U-Net is assumed to reach")
    parser.add_argument("--classifier-utilisation", type=float, default=0.2, help="the same of the classifier")
    parser.add_argument("--jpeg-bytes", type=float, default=0.7, help="of a prepared copy, a pixel, assumed")
    return parser.parse_args()


def build_unet() -> nn.Module:
    """The U-Net of the card imagenet256, frozen, in bfloat16, without values."""
    from diffusers import UNet2DModel

    with torch.device("meta"):
        unet = UNet2DModel(**unet_config(parse_flags(released_flags()["diffusion_openai.pt"])))
    return nn.Module.to(unet, dtype=torch.bfloat16).requires_grad_(False).eval()


def build_classifier() -> nn.Module:
    with torch.device("meta"):
        return resnet50().to(torch.bfloat16)


def images(number: int, size: int, requires_grad: bool = False) -> Tensor:
    return torch.empty(number, 3, size, size, device="meta", dtype=torch.bfloat16, requires_grad=requires_grad)


def denoise(unet: nn.Module, number: int, size: int = SIZE, gradient: bool = False) -> None:
    """One call for each image; with its gradient by the noisy images, as DDA needs it."""
    with torch.set_grad_enabled(gradient):
        timesteps = torch.zeros(number, dtype=torch.int64, device="meta")
        output = unet(images(number, size, requires_grad=gradient), timesteps).sample
        if gradient:
            output.sum().backward()


def train_step(classifier: nn.Module, number: int) -> None:
    classifier(images(number, SIZE)).sum().backward()


def classify(classifier: nn.Module, number: int) -> None:
    with torch.no_grad():
        classifier(images(number, SIZE))


def count_operations(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def count_peak_bytes(run: Callable[[], Any]) -> int:
    with LiveBytes() as counter:
        run()
    return counter.peak


def operations_per_image(unet: nn.Module, classifier: nn.Module) -> dict[str, float]:
    """By part, of one image; the classifier's batch norms want two images in training."""
    return {
        "U-Net, 224 pixels": count_operations(lambda: denoise(unet, 1)),
        "U-Net, 256 pixels": count_operations(lambda: denoise(unet, 1, PREPARED_SIZE)),
        "U-Net with its gradient, 224 pixels": count_operations(lambda: denoise(unet, 1, gradient=True)),
        "ResNet-50, 224 pixels": count_operations(lambda: classify(classifier, 2)) / 2,
        "ResNet-50 training, 224 pixels": count_operations(lambda: train_step(classifier, 2)) / 2,
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


def hours(work: Work, operations: dict[str, float], args: argparse.Namespace) -> float:
    """On one GPU."""
    of_unet = work.unet * operations["U-Net, 224 pixels"]
    of_unet += work.unet_prepared * operations["U-Net, 256 pixels"]
    of_unet += work.unet_gradient * operations["U-Net with its gradient, 224 pixels"]
    of_classifier = work.classifier * operations["ResNet-50, 224 pixels"]
    of_classifier += work.classifier_training * operations["ResNet-50 training, 224 pixels"]
    seconds = of_unet / args.utilisation + of_classifier / args.classifier_utilisation
    return seconds / (args.peak_tflops * 1e12) / 3600


def records(args: argparse.Namespace) -> list[Record]:
    unet, classifier = build_unet(), build_classifier()
    operations = operations_per_image(unet, classifier)
    common = {"benchmark": "imagenet_cost", "network": "imagenet256", "model": "resnet50", "n": 0, "seed": 0}
    assumed = {"gpu": args.gpu, "peak_tflops": args.peak_tflops, "utilisation": args.utilisation}
    assumed |= {"classifier_utilisation": args.classifier_utilisation}
    made = [{**common, "method": name, "metric": "flop_per_image", "value": n} for name, n in operations.items()]
    for name, work in workloads().items():
        spent = hours(work, operations, args)
        calls = work.unet + work.unet_prepared + work.unet_gradient
        facts = {**common, **assumed, "method": name, "network_calls": calls}
        made += [{**facts, "gpus": n, "metric": "hours", "value": spent / n} for n in (1, 8)]
    held = memory(unet, classifier)
    made += [{**common, "method": name, "metric": "bytes", "value": size} for name, size in held.items()]
    disk = {"JPEG": args.jpeg_bytes, "uncompressed": 3}
    for name, per_pixel in disk.items():
        size = TRAIN_IMAGES * PREPARED_SIZE**2 * per_pixel
        made.append({**common, "method": name, "bytes_a_pixel": per_pixel, "metric": "disk_bytes", "value": size})
    return made


if __name__ == "__main__":
    main()
