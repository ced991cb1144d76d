"""Noise schedules from diffusers' ``scheduler_config.json``, as data: a file chooses numbers, never a class that runs.

diffusers' schedulers are samplers. Of a network's training they say the betas and what the network predicts, and all
say it in the same words. So each file is read as the numbers of a DDPMScheduler, of a ScoreSdeVeScheduler, or of one of
the schedulers that stand for a preconditioning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import Rule, check_entries, integer, number, one_of, optional, read_json, several
from .configs import MAX_TIMESTEPS

NAME = "scheduler_config.json"
#: beta_start, beta_end and beta_schedule of a class, if its file does not say.
DDPM_BETAS = (0.0001, 0.02, "linear")
STABLE_BETAS = (0.00085, 0.012, "linear")
LATENT_BETAS = (0.00085, 0.012, "scaled_linear")
SCHEDULERS: dict[str, tuple[float, float, str]] = {
    "DDPMScheduler": DDPM_BETAS,
    "DDPMParallelScheduler": DDPM_BETAS,
    "DDIMScheduler": DDPM_BETAS,
    "DDIMParallelScheduler": DDPM_BETAS,
    "DDIMInverseScheduler": DDPM_BETAS,
    "PNDMScheduler": DDPM_BETAS,
    "DPMSolverMultistepScheduler": DDPM_BETAS,
    "DPMSolverMultistepInverseScheduler": DDPM_BETAS,
    "DPMSolverSinglestepScheduler": DDPM_BETAS,
    "DEISMultistepScheduler": DDPM_BETAS,
    "UniPCMultistepScheduler": DDPM_BETAS,
    "SASolverScheduler": DDPM_BETAS,
    "EulerDiscreteScheduler": DDPM_BETAS,
    "EulerAncestralDiscreteScheduler": DDPM_BETAS,
    "LMSDiscreteScheduler": DDPM_BETAS,
    "RePaintScheduler": DDPM_BETAS,
    "DPMSolverSDEScheduler": STABLE_BETAS,
    "HeunDiscreteScheduler": STABLE_BETAS,
    "KDPM2DiscreteScheduler": STABLE_BETAS,
    "KDPM2AncestralDiscreteScheduler": STABLE_BETAS,
    "LCMScheduler": LATENT_BETAS,
    "TCDScheduler": LATENT_BETAS,
}
EXPLODING = "ScoreSdeVeScheduler"
FIXED_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
RULES: dict[str, Rule] = {
    "num_train_timesteps": integer(1, MAX_TIMESTEPS),
    "beta_start": number(1e-12, 0.999999),
    "beta_end": number(1e-12, 0.999999),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
    "trained_betas": optional(several(number(1e-12, 1 - 1e-12), MAX_TIMESTEPS)),
    "rescale_betas_zero_snr": one_of(True, False),
    "prediction_type": one_of("epsilon", "v_prediction", "sample"),
    "variance_type": optional(one_of(*FIXED_VARIANCES, "learned_range")),
    # Flow matching has other noise than these betas.
    "use_flow_sigmas": optional(one_of(False)),
}
EXPLODING_RULES: dict[str, Rule] = {
    "num_train_timesteps": integer(2, MAX_TIMESTEPS),
    "sigma_min": number(1e-12, 1e12),
    "sigma_max": number(1e-12, 1e12),
}
DATA_RULES: dict[str, Rule] = EXPLODING_RULES | {"sigma_data": number(1e-6, 1e6), "rho": number(1e-6, 1e6)}
EDM_RULES: dict[str, Rule] = DATA_RULES | {"prediction_type": one_of("epsilon", "v_prediction")}
FLOW_RULES: dict[str, Rule] = {
    "num_train_timesteps": integer(1, MAX_TIMESTEPS),
    "shift": number(1e-6, 1e6),
    "invert_sigmas": one_of(False),
}
#: By the file's class: the class that is made of its numbers, and their rules.
PRECONDITIONINGS: dict[str, tuple[str, dict[str, Rule]]] = {
    "EDMEulerScheduler": ("EDMEulerScheduler", EDM_RULES),
    "EDMDPMSolverMultistepScheduler": ("EDMEulerScheduler", EDM_RULES),
    "CMStochasticIterativeScheduler": ("CMStochasticIterativeScheduler", DATA_RULES),
    "FlowMatchEulerDiscreteScheduler": ("FlowMatchEulerDiscreteScheduler", FLOW_RULES),
    "FlowMatchHeunDiscreteScheduler": ("FlowMatchEulerDiscreteScheduler", FLOW_RULES),
}


def read_scheduler(folders: Sequence[Path], supported: str) -> Any:
    """diffusers' scheduler with the numbers of the first ``scheduler_config.json`` in the folders.

    Args:
        supported: the end of error messages.

    Raises:
        ValueError: no folder has the file, it names no scheduler of the table, or a value is out of range.
        OSError: the file is damaged.
    """
    path = next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)
    if path is None:
        raise ValueError(f"{folders[-1]} holds no {NAME}, so the noise schedule is unknown. {supported}")
    config = read_json(path)
    name = config.get("_class_name", "DDPMScheduler")
    if name == EXPLODING:
        return rescaled(EXPLODING, EXPLODING_RULES, config, path)
    if isinstance(name, str) and name in PRECONDITIONINGS:
        return rescaled(*PRECONDITIONINGS[name], config, path)
    if not isinstance(name, str) or name not in SCHEDULERS:
        others = ", ".join((EXPLODING, *PRECONDITIONINGS))
        raise ValueError(
            f"{path}: _class_name must be a scheduler with betas or one of {others}. Got {name!r}. {supported}"
        )
    return preserving(config, SCHEDULERS[name], path)


def preserving(config: dict[str, Any], betas: tuple[float, float, str], path: Path) -> Any:
    """A DDPMScheduler with the numbers of the file, and the defaults of the file's class."""
    from diffusers import DDPMScheduler

    check_entries(config, RULES, path)
    defaults = dict(zip(("beta_start", "beta_end", "beta_schedule"), betas))
    given = {key: config[key] for key in RULES if config.get(key) is not None and key != "use_flow_sigmas"}
    if config.get("predict_epsilon") is False:  # its name before diffusers 0.11
        given.setdefault("prediction_type", "sample")
    arguments = {"num_train_timesteps": 1000, **defaults, **given}
    return DDPMScheduler(**arguments)


def rescaled(name: str, rules: dict[str, Rule], config: dict[str, Any], path: Path) -> Any:
    """diffusers' scheduler of this name, which is one of the tables', with the numbers of the file that have a rule."""
    import diffusers

    check_entries(config, rules, path)
    scheduler = getattr(diffusers, name)(**{key: config[key] for key in rules if key in config})
    low, high = scheduler.config.get("sigma_min", 0), scheduler.config.get("sigma_max", 1)
    if low >= high:
        raise ValueError(f"{path}: sigma_min must be below sigma_max, {high}. Got {low}")
    return scheduler
