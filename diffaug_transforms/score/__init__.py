"""The diffusion side: schedules, pure functions, networks, where they come from, and the engine that runs them.

schedule.py     betas -> alphas_cumprod -> sigmas
timesteps.py    the default timesteps, matched to image sizes; those that samplers visit
functional.py   x_0 -> x_t (noise is added here), what a network predicts -> pred_x0, eps, one reverse step
network.py      ScoreNetwork: a U-Net and its schedule behind one signature
adapters.py     networks of other makes, wrapped once (a new type of network goes here)
denoiser.py     Denoiser: images -> x_t -> one call of the network -> images (the network is called here)
preparing.py    copies of a network that are fast on a device; loading.py keeps loading out of traces and modes
views.py        what a network makes of images over time, for pictures
unet.py, openai.py, storage.py, hub.py   networks from files, from OpenAI's checkpoints, by name
configs.py, schedulers.py   what the files of others may say of a network and of its noise
sampling.py     from noise to images, with a hook for a guide
"""

from ..public_names import only_public
from .denoiser import Denoiser, diffuse_and_denoise
from .functional import diffuse, to_signed, to_unit
from .hub import NetworkCard, list_score_networks, load_score_network
from .network import ScoreNetwork
from .schedule import NoiseSchedule
from .timesteps import match_timesteps, space_timesteps
from .views import views_over_time

__all__ = [
    "Denoiser",
    "NetworkCard",
    "NoiseSchedule",
    "ScoreNetwork",
    "diffuse",
    "diffuse_and_denoise",
    "list_score_networks",
    "load_score_network",
    "match_timesteps",
    "space_timesteps",
    "to_signed",
    "to_unit",
    "views_over_time",
]

__dir__ = only_public(__name__)
