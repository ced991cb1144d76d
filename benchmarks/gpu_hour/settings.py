"""What every part of the hour is given, and how it writes a measurement down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.score.openai import flags_of_command_line, parse_flags, released_flags, unet_config

from ..harness.ceiling import SIDES
from ..harness.records import Record
from ..throughput import build_network

#: OpenAI's flags of a network with ADM's blocks that a CPU computes in milliseconds.
TINY_FLAGS = {"image_size": "32", "num_channels": "32", "num_res_blocks": "1", "attention_resolutions": "8"}
#: Of the matrix product at tiny settings.
TINY_SIDE = 128


@dataclass(frozen=True)
class Settings:
    """Options of a run.

    Attributes:
        device: where to measure. network: the small network. rounds: timed rounds.
        tiny: settings that only show that everything runs.
    """

    device: torch.device
    network: str
    rounds: int
    tiny: bool

    @property
    def judged(self) -> bool:
        """Whether a number can be held against its aim: only at full settings on a GPU."""
        return self.device.type == "cuda" and not self.tiny

    @property
    def side(self) -> int:
        """Of the matrix product."""
        return TINY_SIDE if self.tiny else SIDES[self.device.type]

    def choose(self, full: tuple[int, ...], tiny: tuple[int, ...]) -> tuple[int, ...]:
        return tiny if self.tiny else full

    def record(
        self,
        method: str,
        metric: str,
        value: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        **more: Any,
    ) -> Record:
        """One measurement. With an aim it says whether that held: True, False, or None if it was not judged."""
        record: Record = {"method": method, "metric": metric, "value": value, **more}
        if at_most is not None:
            record |= {"at_most": at_most, "held": value <= at_most if self.judged else None}
        if at_least is not None:
            record |= {"at_least": at_least, "held": value >= at_least if self.judged else None}
        return record

    def failed(self, method: str, error: BaseException, **more: Any) -> Record:
        """Says that a method raised an error. Its first line is enough to find the traceback in the output."""
        lines = str(error).splitlines() or [""]
        return {
            "method": method,
            "metric": "failed",
            "value": 1,
            "error": f"{type(error).__name__}: {lines[0]}",
            **more,
        }

    def adm256(self) -> ScoreNetwork:
        """ADM-256 with random weights. At tiny settings: a small network with the same kinds of blocks."""
        if not self.tiny:
            return build_network("adm256")
        from diffusers import UNet2DModel

        released = flags_of_command_line(released_flags()["256x256_diffusion_uncond.pt"])
        unet = UNet2DModel(**unet_config(parse_flags(released | TINY_FLAGS)))
        return ScoreNetwork(unet, NoiseSchedule.named("linear"), variance_type="learned_range")
