"""ScoreNetwork: a U-Net and its noise schedule behind one signature, whatever the U-Net predicts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import calling
from . import functional as F
from .download import upload_folder
from .matching import AUGMENT_TIMESTEPS, ENSEMBLE_TIMESTEPS, match_timesteps
from .memory_format import avoid_slow_group_norms, fast_layout
from .schedule import NoiseSchedule

if TYPE_CHECKING:
    from diffusers import SchedulerMixin, UNet2DModel


class ScoreNetwork(nn.Module):
    """A diffusion network as the score of its noisy images.

    All methods take ``x_t`` (B, C, H, W) in the range of [-1, 1] images plus noise, ``timesteps`` int64 (B,) in
    0...T-1, and ``labels`` int64 (B,) in 0...num_classes-1 or None. They return float32. Unconditional networks ignore
    labels; conditional ones use their null class where labels are None, and raise ValueError if they have none.

    It is for inference: the U-Net is frozen and stays in eval mode whatever ``.train()`` a parent is told.

    Args:
        unet: diffusers' ``UNet2DModel``, or any module called as ``unet(x_t, timesteps, labels)`` with a ``config``
            that has in_channels, sample_size and, if it has them, num_class_embeds and block_out_channels.
        schedule: the noise schedule it was trained with.
        prediction_type: what it predicts: ``"epsilon"``, ``"v_prediction"`` (Salimans & Ho 2022), ``"sample"`` (x_0) or
            ``"score"`` (Song et al. 2021).
        variance_type: of p(x_{t-1} | x_t): ``"fixed_small"`` or ``"fixed_large"`` (Ho et al. 2020, sec. 3.2), or
            ``"learned_range"`` where the network has 2C outputs (Nichol & Dhariwal 2021, eq. 15).
        null_class: the label that stands for "no label", where the network was trained with label dropout.
        label_weight: prediction = (1 - w) unconditional + w conditional, for a network with a null class. 1: the
            conditional score alone; 0: the unconditional; between: the mix of the paper's conditional ablation;
            above 1: classifier-free guidance (Ho & Salimans 2022).
        image_range: of the images it was trained on: (-1, 1), or (0, 1) with a variance-exploding schedule, whose
            sigmas are on the [-1, 1] scale all the same.
        conditioning: what it is told of the noise: ``"timestep"``, or ``"sigma"``, in its own image range.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t = torch.randn(2, 3, 32, 32)
        >>> network.pred_x0(x_t, torch.tensor([500, 500]), labels=torch.tensor([0, 9])).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        unet: nn.Module,
        schedule: NoiseSchedule,
        *,
        prediction_type: str = "epsilon",
        variance_type: str = "fixed_small",
        null_class: int | None = None,
        label_weight: float = 1.0,
        image_range: tuple[float, float] = (-1, 1),
        conditioning: str = "timestep",
    ) -> None:
        super().__init__()
        config: Any = unet.config
        calling.check_call(schedule, prediction_type, variance_type, image_range, conditioning)
        num_labels: int | None = getattr(config, "num_class_embeds", None)
        has_null = null_class is not None
        if has_null and null_class != (num_labels or 0) - 1:
            raise ValueError(f"null_class must be the last of the network's {num_labels} labels. Got {null_class}")
        if label_weight != 1 and null_class is None:
            raise ValueError(f"label_weight other than 1 needs a network with a null class. Got {label_weight}")
        self.unet = unet
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.variance_type = variance_type
        self.null_class = null_class
        self.label_weight = label_weight
        self.image_range = image_range
        self.conditioning = conditioning
        size = config.sample_size
        self.image_size: int = max(size) if isinstance(size, (tuple, list)) else size
        self.in_channels: int = config.in_channels
        self.num_classes: int | None = num_labels - has_null if num_labels else None
        #: Sides of images must be a multiple of this; DiffAug pads and crops.
        self.stride: int = 2 ** (len(getattr(config, "block_out_channels", (1,))) - 1)
        avoid_slow_group_norms(unet)
        self.requires_grad_(False).eval()

    @classmethod
    def from_diffusers(cls, unet: UNet2DModel, scheduler: SchedulerMixin, **extras: Any) -> ScoreNetwork:
        """From a diffusers U-Net and the scheduler it was trained with; ``extras`` are this class's own arguments."""
        arguments = {**calling.diffusers_arguments(unet, scheduler), **extras}
        return cls(unet, NoiseSchedule.from_scheduler(scheduler, arguments["image_range"]), **arguments)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> ScoreNetwork:
        """From a local folder or a Hub repository in diffusers' layout, as ``save_pretrained`` writes it.

        Raises OSError where files are missing or damaged, ValueError for models that are no pixel-space UNet2DModel.
        """
        from . import folder as layout

        folder = Path(folder_or_repo)
        if not folder.is_dir():
            folder = layout.fetch_folder(str(folder_or_repo), revision, token, local_files_only)
        unet, scheduler, extras = layout.read_folder(folder)
        return cls.from_diffusers(unet, scheduler, **extras)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that this class and ``DiffusionPipeline.from_pretrained`` read, weights as safetensors.

        ValueError for a variance-exploding schedule that ``NoiseSchedule.variance_exploding`` does not make.
        """
        from .folder import write_folder

        write_folder(Path(folder), self)

    def push_to_hub(self, repo: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Save to a repository on the Hub, made where it is missing. Returns the commit's address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(Path(folder), repo, private, token)

    @property
    def num_timesteps(self) -> int:
        return self.schedule.num_timesteps

    @property
    def augment_timesteps(self) -> tuple[int, ...]:
        """DiffAug's default draw, the paper's 0...999 matched to this network's image size and schedule."""
        return match_timesteps(AUGMENT_TIMESTEPS, self.schedule, self.image_size)

    @property
    def ensemble_timesteps(self) -> tuple[int, ...]:
        """The ensemble's default set, the paper's {0, 50, ..., 450} matched to this network's size and schedule."""
        return match_timesteps(ENSEMBLE_TIMESTEPS, self.schedule, self.image_size)

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        return self.schedule.betas.device

    def eps(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The noise predicted in x_t, (B, C, H, W)."""
        prediction, _ = self.predict(x_t, timesteps, labels)
        return F.prediction_to_eps(prediction, x_t, timesteps, self.schedule, self.prediction_type)

    def pred_x0(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None, clip: bool = True) -> Tensor:
        """The denoised image E[x_0 | x_t], (B, C, H, W), in [-1, 1] where ``clip``."""
        prediction, _ = self.predict(x_t, timesteps, labels)
        x_0 = F.prediction_to_x0(prediction, x_t, timesteps, self.schedule, self.prediction_type)
        return x_0.clamp(-1, 1) if clip else x_0

    def score(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The gradient of log p(x_t) by x_t: -eps / noise_scale."""
        return -self.eps(x_t, timesteps, labels) / self.schedule.scales(timesteps, x_t.ndim)[1]

    def posterior(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{t-1} | x_t), each (B, C, H, W) (Ho et al. 2020, eq. 7, of clipped pred_x0)."""
        answer = self.predict(x_t, timesteps, labels)
        step = F.reverse_step(*answer, x_t, timesteps, self.schedule, self.prediction_type, self.variance_type)
        return step.mean, step.log_variance

    def predict(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One call of the U-Net: what it predicts (see ``prediction_type``) and its channels of learned variance.

        Each (B, C, H, W); the second has no channels where the variance is fixed.
        """
        if timesteps.device.type == "cpu":  # elsewhere a check would wait for the device at every call
            self.schedule.check_timesteps(timesteps.tolist())
        if self.num_classes is None:
            output = self._call(x_t, timesteps, None)
        elif labels is None or self.label_weight == 0:
            output = self._call(x_t, timesteps, self._null_labels(timesteps))
        elif self.label_weight == 1:
            output = self._call(x_t, timesteps, calling.check_labels(labels, self.num_classes))
        else:
            both = torch.cat([self._null_labels(timesteps), calling.check_labels(labels, self.num_classes)])
            pair = self._call(torch.cat([x_t, x_t]), torch.cat([timesteps, timesteps]), both)
            unconditional, conditional = pair.chunk(2)
            output = torch.lerp(unconditional, conditional, self.label_weight)
        prediction = calling.from_own_scale(output[:, : self.in_channels], self.prediction_type, self.image_range)
        return prediction, output[:, self.in_channels :]

    def _call(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        x_t, told = calling.to_own_scale(x_t, timesteps, self.schedule, self.image_range, self.conditioning)
        x_t = x_t.to(self.dtype, memory_format=fast_layout(x_t.device, x_t.requires_grad))
        output = self.unet(x_t, told, labels)
        return (output if isinstance(output, Tensor) else output.sample).float()

    def _null_labels(self, timesteps: Tensor) -> Tensor:
        if self.null_class is None:
            raise ValueError(f"this network needs labels in 0...{(self.num_classes or 0) - 1}: it has no null class")
        return torch.full_like(timesteps, self.null_class)

    def train(self, mode: bool = True) -> ScoreNetwork:
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> ScoreNetwork:
        with calling.embedding_in_float32(self.unet):
            super()._apply(fn, recurse)
        self.schedule = self.schedule.to(fn(torch.empty(0, device=self.device)).device)
        return self
