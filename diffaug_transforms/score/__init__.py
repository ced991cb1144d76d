"""The diffusion side: schedules, pure functions, networks and where they come from."""

from .functional import diffuse, diffuse_and_denoise, to_signed, to_unit
from .hub import NetworkCard, list_score_networks, load_score_network
from .matching import match_timesteps
from .network import ScoreNetwork
from .schedule import NoiseSchedule

__all__ = [
    "NetworkCard",
    "NoiseSchedule",
    "ScoreNetwork",
    "diffuse",
    "diffuse_and_denoise",
    "list_score_networks",
    "load_score_network",
    "match_timesteps",
    "to_signed",
    "to_unit",
]
