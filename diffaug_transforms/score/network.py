"""ScoreNetwork: a U-Net and its noise schedule behind one signature, whatever the U-Net predicts.

x_t, timesteps, labels --predict--> prediction --functional.py--> pred_x0, eps, score, posterior
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import (
    FLOATS,
    INTEGERS,
    as_number,
    as_optional_integer,
    check_choice,
    check_instance,
    check_tensor,
)
from ..deprecated import renamed_attribute, warn_renamed
from ..hub import upload_folder
from ..labels import check_labels
from ..without_waiting import LateChecks, send
from . import functional, storage
from .adapters import from_diffusers
from .configs import check_config
from .denoisers import wrap_denoiser
from .schedule import NoiseSchedule
from .timesteps import augment_timesteps, ensemble_timesteps

#: Types of devices that have an autocast, which must not reach the U-Net.
AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


class ScoreNetwork(nn.Module):
    """A diffusion network as the score of its noisy images. Calling it gives the denoised image.

    All methods take ``x_t`` (B, C, H, W) on the scale of [-1, 1] images plus noise, ``timesteps`` int64 (B,) in
    0...T-1, and ``labels`` int64 (B,) in 0...num_classes-1 or None. They return float32. Unconditional networks ignore
    labels. Conditional ones use their null class if labels are None, and raise ValueError if they have none.

    The U-Net is held as it is: not cast, not frozen, not put into eval mode. ``load_score_network`` gives networks that
    are frozen and in eval mode, and ``Denoiser`` works with copies that are.

    Args:
        unet: diffusers' ``UNet2DModel``, or any module called as ``unet(x_t, timesteps, labels)`` with a ``config``
            that has in_channels, sample_size and, if it has them, num_class_embeds and block_out_channels.
        schedule: the noise schedule it was trained with.
        prediction_type: what it predicts: ``"epsilon"``, ``"v_prediction"`` (Salimans & Ho 2022), ``"sample"`` (x_0) or
            ``"score"`` (Song et al. 2021).
        variance_type: of p(x_{t-1} | x_t): ``"fixed_small"`` or ``"fixed_large"`` (Ho et al. 2020, sec. 3.2), or
            ``"learned_range"`` for a network with 2C outputs (Nichol & Dhariwal 2021, eq. 15).
        null_class: the label that stands for "no label", if the network was trained with label dropout.
        guidance_scale: prediction = (1 - s) unconditional + s conditional, for a network with a null class. 1: the
            conditional score alone. 0: the unconditional one. Between: the mix of the paper's conditional ablation.
            Above 1: classifier-free guidance (Ho & Salimans 2022).

    Attributes:
        image_size: side of its images in pixels, None for any size; in_channels; num_classes, None if unconditional;
            num_timesteps, T.
        stride: sides of x_t must be multiples of it. ``Denoiser`` pads and crops.

    Raises:
        ValueError: an argument that is unknown, or that does not fit the others.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t = torch.randn(2, 3, 32, 32)
        >>> network(x_t, torch.tensor([500, 500]), labels=torch.tensor([0, 9])).shape
        torch.Size([2, 3, 32, 32])
    """

    label_weight = renamed_attribute("ScoreNetwork.label_weight", "guidance_scale")

    def __init__(
        self,
        unet: nn.Module,
        schedule: NoiseSchedule,
        *,
        prediction_type: str = "epsilon",
        variance_type: str = "fixed_small",
        null_class: int | None = None,
        guidance_scale: float = 1.0,
        label_weight: float | None = None,
    ) -> None:
        super().__init__()
        if label_weight is not None:
            warn_renamed("ScoreNetwork(label_weight=)", "guidance_scale=")
            guidance_scale = label_weight
        check_choice("prediction_type", prediction_type, functional.PREDICTION_TYPES)
        check_choice("variance_type", variance_type, functional.VARIANCE_TYPES)
        check_instance("schedule", schedule, NoiseSchedule)
        guidance_scale = as_number("guidance_scale", guidance_scale)
        null_class = as_optional_integer("null_class", null_class, 0)
        config = check_config(unet, variance_type)
        num_labels: int | None = getattr(config, "num_class_embeds", None)
        has_null = null_class is not None
        if has_null and null_class != (num_labels or 0) - 1:
            raise ValueError(f"null_class must be the last of the network's {num_labels} labels. Got {null_class}")
        if guidance_scale != 1 and null_class is None:
            raise ValueError(f"guidance_scale other than 1 needs a network with a null class. Got {guidance_scale}")
        self.unet = unet
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.variance_type = variance_type
        self.null_class = null_class
        self.guidance_scale = guidance_scale
        self._late_checks = LateChecks()
        size = config.sample_size
        self.image_size: int | None = max(size) if isinstance(size, (tuple, list)) else size
        self.in_channels: int = config.in_channels
        self.num_classes: int | None = num_labels - has_null if num_labels else None
        levels, patch_size = len(getattr(config, "block_out_channels", (1,))), getattr(config, "patch_size", 1)
        self.stride: int = getattr(config, "stride", patch_size * 2 ** (levels - 1))
        self.takes_float32: bool = getattr(unet, "takes_float32", False)

    @classmethod
    def from_diffusers(cls, unet: nn.Module, scheduler: Any, **extras: Any) -> ScoreNetwork:
        """From a diffusers U-Net and the scheduler it was trained with; ``extras`` are this class's own arguments."""
        module, schedule, arguments = from_diffusers(unet, scheduler, extras.pop("plain", False))
        return cls(module, schedule, **{**arguments, **extras})

    @classmethod
    def from_denoiser(
        cls,
        denoise: Callable[..., Tensor],
        *,
        image_size: int | None,
        sigma_range: tuple[float, float],
        in_channels: int = 3,
        num_classes: int | None = None,
        stride: int = 1,
    ) -> ScoreNetwork:
        """From any denoiser of x = x_0 + sigma noise, with x_0 in [-1, 1].

        The schedule is the paper's: linear, 1000 timesteps. x_t is divided by its signal_scale to get x. ``predict`` is
        then one call of ``denoise``, and all that this class gives follows from the denoised image.

        Args:
            denoise: ``denoise(x, sigma)``, or ``denoise(x, sigma, labels)`` if ``num_classes`` is given, to the
                denoised image (B, C, H, W). x is (B, C, H, W), sigma float32 (B,), labels int64 (B,). A module is held
                as it is: it moves with ``.to``. Its weights keep their dtype; with a Denoiser in bfloat16 or float16 it
                runs under autocast.
            image_size: side of the images that it was trained on; None: it is for any size.
            sigma_range: the smallest and the largest sigma that it takes, on the [-1, 1] scale: twice those of [0, 1]
                images. Timesteps outside are refused, and default timesteps are cut to it.
            stride: sides of x must be multiples of it. ``Denoiser`` pads and crops.

        Raises:
            TypeError, ValueError: an argument of another kind or out of range, here; a ``denoise`` that returns another
                shape or no finite values, when it is called.

        Example:
            >>> shrink = lambda x, sigma: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)  # exact for white noise as images
            >>> network = ScoreNetwork.from_denoiser(shrink, image_size=None, sigma_range=(0, 1))
            >>> network.schedule.timesteps
            range(0, 259)
            >>> DiffAug(network)(torch.rand(2, 3, 48, 64)).shape
            torch.Size([2, 3, 48, 64])
        """
        module, schedule = wrap_denoiser(denoise, image_size, sigma_range, in_channels, num_classes, stride)
        return cls(module, schedule, prediction_type="sample")

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> ScoreNetwork:
        """From a local folder or a Hub repository in diffusers' layout, frozen and in eval mode.

        Args:
            variant: of the weights, diffusers' word: ``"fp16"`` for diffusion_pytorch_model.fp16.safetensors. They are
                loaded in float32.
            subfolder: where in the folder or repository the network lies, such as ``"checkpoint-500"``. The scheduler
                may lie there or in the folder itself.

        Raises:
            OSError: files are missing or damaged. ValueError: the model is no pixel-space UNet2DModel.
        """
        folder = Path(folder_or_repo)
        if not folder.is_dir():
            name = str(folder_or_repo)
            folder = storage.fetch_folder(name, revision, token, local_files_only, subfolder, variant)
        unet, scheduler, extras = storage.read_folder(folder, subfolder, variant)
        try:
            network = cls.from_diffusers(unet, scheduler, **extras)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        return network.requires_grad_(False).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that this class and ``DiffusionPipeline.from_pretrained`` read, weights as safetensors.

        ValueError for a variance-exploding schedule that ``NoiseSchedule.variance_exploding`` does not make.
        """
        extras = {"null_class": self.null_class, "guidance_scale": self.guidance_scale}
        storage.write_folder(Path(folder), self.unet, self.schedule, self.prediction_type, self.variance_type, extras)

    def push_to_hub(self, repo: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Save to a repository on the Hub, which is made if it is missing. Returns the commit's address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(Path(folder), repo, private, token, "Upload score network")

    @property
    def num_timesteps(self) -> int:
        return self.schedule.num_timesteps

    @property
    def augment_timesteps(self) -> tuple[int, ...]:
        """DiffAug's default draw: the paper's 0...999, matched to this network's image size and schedule.

        For a network without a size of its own, here and in ``ensemble_timesteps``, they are those for images of 224
        pixels and more. ``DiffAug`` and ``DiffAugEnsemble`` match them to smaller images.
        """
        return augment_timesteps(self.schedule, self.image_size)

    @property
    def ensemble_timesteps(self) -> tuple[int, ...]:
        """The ensemble's default set: the paper's {0, 50, ..., 450}, matched to this network's size and schedule."""
        return ensemble_timesteps(self.schedule, self.image_size)

    @property
    def dtype(self) -> torch.dtype:
        for parameter in self.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self.schedule.betas.device

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """``pred_x0``: the denoised image, (B, C, H, W) in [-1, 1]."""
        return self.pred_x0(x_t, timesteps, labels)

    def pred_x0(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None, clip: bool = True) -> Tensor:
        """The denoised image E[x_0 | x_t], (B, C, H, W), clipped to [-1, 1] if ``clip``."""
        x_t, timesteps, labels = self.check_inputs(x_t, timesteps, labels)
        if not len(x_t):
            return x_t
        prediction, _ = self.predict(x_t, timesteps, labels)
        x_0 = functional.prediction_to_x0(prediction, x_t, timesteps, self.schedule, self.prediction_type)
        return x_0.clamp(-1, 1) if clip else x_0

    def eps(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The noise predicted in x_t, (B, C, H, W)."""
        return self._eps(*self.check_inputs(x_t, timesteps, labels))

    def score(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The gradient of log p(x_t) by x_t: -eps / noise_scale."""
        x_t, timesteps, labels = self.check_inputs(x_t, timesteps, labels)
        return -self._eps(x_t, timesteps, labels) / functional.scales(timesteps, self.schedule)[1]

    def _eps(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        """``eps`` of inputs that are checked."""
        if not len(x_t):
            return x_t
        prediction, _ = self.predict(x_t, timesteps, labels)
        return functional.prediction_to_eps(prediction, x_t, timesteps, self.schedule, self.prediction_type)

    def posterior(
        self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None, clip: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{t-1} | x_t), each (B, C, H, W) (Ho et al. 2020, eq. 7). See ``pred_x0``."""
        x_t, timesteps, labels = self.check_inputs(x_t, timesteps, labels)
        if not len(x_t):
            return x_t, x_t
        answer = self.predict(x_t, timesteps, labels)
        types = (self.prediction_type, self.variance_type)
        step = functional.reverse_step(*answer, x_t, timesteps, self.schedule, *types, clip)
        return step.mean, step.log_variance

    def check_inputs(
        self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The inputs, x_t in float32. ValueError or TypeError unless they are as this class's methods take them."""
        check_noisy_images(x_t, self.in_channels, self.stride)
        if x_t.device != self.device:
            cure = f'network.to("{x_t.device}") or x_t.to("{self.device}")'
            raise ValueError(f"x_t must be on the network's device, {self.device}. Got {x_t.device}: {cure}")
        return x_t.float(), *self.check(timesteps, labels, len(x_t))

    def check(
        self, timesteps: Tensor, labels: Tensor | None = None, number: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``check_inputs`` without the images. ``number`` is how many images there are, if known.

        On a device other than the CPU, where reading values would wait for it, values out of range are moved into it,
        and their error comes in a later call.
        """
        if self._late_checks.waiting:
            self._late_checks.read()
        check_tensor("timesteps", timesteps, INTEGERS, "an int64 tensor (B,), such as torch.tensor([500])")
        number = timesteps.numel() if number is None else number
        if timesteps.shape != (number,):
            raise ValueError(f"timesteps must be one per image, ({number},). Got shape {tuple(timesteps.shape)}")
        if not torch.compiler.is_compiling():
            timesteps = self.schedule.checked(timesteps, self.device, self._late_checks)
        if self.num_classes is not None:
            if labels is not None:
                check_tensor("labels", labels, INTEGERS, "an int64 tensor (B,)")
                if labels.shape != (number,):
                    raise ValueError(f"labels must be one per image, ({number},). Got shape {tuple(labels.shape)}")
                labels = send(check_labels(labels, self.num_classes, self._late_checks), self.device)
            elif self.null_class is None:
                raise ValueError(f"this network needs labels in 0...{self.num_classes - 1}: it has no null class")
        return timesteps, labels

    def predict(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One call of the U-Net: what it predicts (see ``prediction_type``) and its channels of learned variance.

        Each is float32 (B, C, H, W); the second has no channels if the variance is fixed. Nothing is checked: this is
        the core that is compiled and exported. An autocast from outside has no effect here.
        """
        if self.num_classes is None:
            labels = None
        elif labels is None or self.guidance_scale == 0:
            labels = torch.full_like(timesteps, self.null_class)  # type: ignore[arg-type]
        guided = labels is not None and self.guidance_scale not in (0, 1)
        if guided:
            labels = torch.cat([torch.full_like(timesteps, self.null_class), labels])  # type: ignore[arg-type, list-item]
            x_t, timesteps = torch.cat([x_t, x_t]), torch.cat([timesteps, timesteps])
        # On the CPU the backward pass of channels-last group norms is slow.
        contiguous = x_t.requires_grad and x_t.device.type == "cpu"
        layout = torch.contiguous_format if contiguous else torch.channels_last
        device_type = x_t.device.type if x_t.device.type in AUTOCAST_DEVICES else "cpu"
        autocast = torch.is_autocast_enabled(device_type)
        with torch.autocast(device_type, enabled=False) if autocast else nullcontext():
            dtype = x_t.dtype if self.takes_float32 else self.dtype
            output = self.unet(x_t.to(dtype, memory_format=layout), timesteps, labels)
        output = (output if isinstance(output, Tensor) else output.sample).float()
        if guided:
            unconditional, conditional = output.chunk(2)
            output = torch.lerp(unconditional, conditional, self.guidance_scale)
        return output[:, : self.in_channels], output[:, self.in_channels :]

    def _apply(self, fn: Any, recurse: bool = True) -> ScoreNetwork:
        super()._apply(fn, recurse)
        self.schedule = self.schedule.to(fn(torch.empty(0, device=self.device)).device)
        return self


def check_noisy_images(x_t: Any, channels: int, stride: int) -> None:
    """ValueError or TypeError unless x_t is a batch that a network with these channels and strides takes."""
    check_tensor("x_t", x_t, FLOATS, "a floating point tensor (B, C, H, W)")
    if x_t.ndim != 4 or x_t.shape[1] != channels:
        raise ValueError(f"x_t must be (B, {channels}, H, W). Got shape {tuple(x_t.shape)}")
    height, width = x_t.shape[-2:]
    if not (height and width) or height % stride or width % stride:
        raise ValueError(
            f"x_t must be (B, {channels}, H, W), H and W above 0 and divisible by {stride}. Got shape "
            f"{tuple(x_t.shape)}: Denoiser pads images"
        )
