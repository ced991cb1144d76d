"""Calls of what stands in ``diffaug_transforms.score``: networks, schedules, the engine, sampling."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import NoiseSchedule

from . import arguments as a
from . import images
from .checks import ResultCheck, finite_scalar, instance_of, like_first, like_second, tensor_complaint
from .values import Call, calls, only, pick

X_T = "pixels((2, 3, 16, 16), values='normalised')"
#: x_t for networks of three channels, and the number of images in it.
x_t = pick(
    [
        X_T,
        "pixels((2, 3, 8, 24), values='normalised')",
        "pixels((2, 3, 16, 16), 'bfloat16', 'normalised')",
        "pixels((2, 3, 16, 16), 'float64', 'normalised')",
        "pixels((2, 3, 16, 16), 'float32', 'normalised', 'channels_last')",
        "pixels((2, 3, 16, 16), 'float32', 'normalised', 'grad')",
        "pixels((2, 3, 16, 16), 'float32', 'unit', 'expanded')",
    ],
    "pixels((3, 16, 16)) | pixels((2, 1, 16, 16)) | pixels((2, 4, 16, 16))"
    " | pixels((2, 3, 16, 16), 'uint8') | pixels((2, 3, 16, 16), 'int64')"
    " | pixels((2, 3, 16, 16), 'bool') | pixels((2, 16, 16, 3)) | None | 'x' | 7"
    " | array((2, 3, 16, 16), 'float32') | picture() | pixels((16, 16)) | pixels((2, 3, 0, 16))"
    " | pixels((2, 3, 16, 16), 'complex64') | pixels((2, 3, 16, 16), 'float8_e5m2') | []"
    " | pixels((2, 2, 3, 16, 16))",
    # Networks of stride 1 take any size.
    "pixels((2, 3, 15, 16)) | pixels((2, 3, 1, 1)) | pixels((2, 3, 16, 16), values='nan')"
    " | pixels((2, 3, 16, 16), values='inf')"
    " | pixels((2, 3, 16, 16), 'float16') | tv_tensors.Image(pixels((2, 3, 16, 16)))",
)
GOOD_STEPS = ("torch.tensor([0, 999])", "torch.tensor([500, 500])")
BAD_STEPS = (
    "torch.tensor([0, 1000])",
    "torch.tensor([-1, 3])",
    "torch.tensor([1, 2, 3])",
    "torch.tensor([0.5, 3.0])",
    "None",
    "'t'",
    "torch.tensor([True, False])",
    "pixels((2, 1))",
    "[0.5, 1]",
    "torch.tensor([nan, 1])",
    "torch.tensor([])",
    "torch.tensor([[1, 2]])",
    "{}",
    "object()",
    "[1, 2, 3]",
    "torch.tensor([1j, 2])",
    "0.5",
    "1000",
)
steps = pick(
    GOOD_STEPS,
    BAD_STEPS,
    "[3, 4] | 7 | torch.tensor([3, 4], dtype=torch.int32) | np.array([3, 4]) | torch.tensor(3) | torch.tensor([3])",
)
UNUSED = pick(["None", *images.GOOD_LABELS[:1]])
labels = pick(images.GOOD_LABELS[:1], [*images.BAD_LABELS, "None"], [*images.GOOD_LABELS[1:], *images.LISTED_LABELS])
plain_networks = st.sampled_from(("plain", "plain", "learned", "exact", "null"))


def pair_like_first(arguments: list[Any], result: Any) -> str | None:
    """Mean and log-variance."""
    if not isinstance(result, tuple) or len(result) != 2:
        return f"{type(result).__name__} instead of a pair"
    return next(filter(None, (like_first(arguments, part) for part in result)), None)


@st.composite
def method_calls(draw: st.DrawFn) -> Call:
    """plain.eps(x_t, timesteps, labels), and the other methods of a network."""
    method, check = draw(
        st.sampled_from(
            (
                ("", like_first),
                (".eps", like_first),
                (".score", like_first),
                (".pred_x0", like_first),
                (".posterior", pair_like_first),
            )
        )
    )
    network = draw(plain_networks)
    return draw(calls(f"{network}{method}", ResultCheck(check), [x_t, steps, UNUSED]))


def steps_complaint(arguments: list[Any], result: Any) -> str | None:
    """A tuple of ints."""
    fits = isinstance(result, tuple) and all(type(t) is int for t in result)
    return None if fits else f"{result!r:.80} instead of a tuple of ints"


def pair_of_views(arguments: list[Any], result: Any) -> str | None:
    shape = (len(list(arguments[2])), *arguments[1].shape)
    return next(filter(None, (tensor_complaint(part, shape) for part in result)), None)


network_options = {
    "prediction_type": a.choice("'epsilon' | 'v_prediction' | 'sample' | 'score'"),
    "variance_type": a.choice("'fixed_small' | 'fixed_large'", "'learned'"),
    "null_class": pick("None", "3 | -1 | 'no' | 1.5 | True | nan"),
    "guidance_scale": a.number("1 | 1.0", "0.5 | 2 | inf"),
}
unets = pick(
    "tiny_unet() | GaussianOracle(linear, size=16)",
    "None | 'unet' | 7 | nn.Conv2d(3, 3, 3) | nn.Identity() | object() | plain | (lambda *x: x[0])"
    " | GaussianOracle | []",
)
schedules = pick(
    "linear | NoiseSchedule.named('cosine', 100) | exploding_schedule",
    "None | 'linear' | 7 | torch.rand(9) | NoiseSchedule | [0.1]",
)
betas = pick(
    "torch.linspace(1e-4, 0.02, 10) | [0.1, 0.2] | np.linspace(0.1, 0.2, 5) | torch.tensor([0.5])",
    "torch.tensor([0.0, 0.1]) | torch.tensor([0.5, 1.0]) | [nan, 0.1] | [] | None"
    " | 'linear' | 0.5 | [[0.1]] | torch.rand(3, 3) | ['a'] | {} | [None] | [-0.1] | object()"
    " | torch.tensor([0.1j]) | [inf] | linear",
    "(0.1, 0.2) | torch.tensor([True])",
)
T_COUNT = a.integer("100 | 1000 | np.int64(50)", "0 | -1", "1 | 10")
sigma_argument = a.number("0.02 | 0.5 | np.float64(0.1)", "0 | -1 | inf | 1000")

CALLS: dict[str, st.SearchStrategy[Call]] = {
    "ScoreNetwork, methods": method_calls(),
    "ScoreNetwork, labels": calls("classes.eps", ResultCheck(like_first), [x_t, only(*GOOD_STEPS), labels]),
    "ScoreNetwork, labels of a null class": calls(
        "null",
        ResultCheck(like_first),
        [only(X_T), only(*GOOD_STEPS), pick([images.GOOD_LABELS[0], "None"], images.BAD_LABELS, images.LISTED_LABELS)],
    ),
    "ScoreNetwork, empty": calls(
        "plain.eps", ResultCheck(like_first), [only("pixels((0, 3, 16, 16))"), only("torch.zeros(0).long()")]
    ),
    "ScoreNetwork, arguments": calls(
        "(lambda unet, schedule, **options: ScoreNetwork(unet, schedule, **options))",
        ResultCheck(instance_of(ScoreNetwork)),
        [unets, schedules],
        network_options,
    ),
    "ScoreNetwork.from_denoiser": calls(
        "ScoreNetwork.from_denoiser",
        ResultCheck(instance_of(ScoreNetwork)),
        [
            pick(
                "shrink | nn.Bilinear(1, 1, 1) | (lambda *x: x[0])",
                "None | 7 | 'unet' | nn.Identity() | nn.Bilinear | [] | object() | (lambda: 0) | (lambda x: x)"
                " | (lambda x, y, z: x)",
            )
        ],
        {
            "image_size": a.integer("16 | 1 | None | np.int64(32)", "0 | -1"),
            "sigma_range": pick(
                "(0, 1) | [0.1, 80] | (0, inf) | np.array([0.1, 2.0]) | torch.tensor([0.1, 2.0])",
                "(1, 0) | (-1, 1) | (nan, 1) | (0, nan) | 0.5 | None | 'ab' | (0, 1, 2) | () | (0, 0.001) | (200, 300)"
                " | ('0', '1') | (None, 1) | object() | (inf, inf) | (1j, 2)",
                "{0: 1, 1: 2} | {0.5, 1}",
            ),
            "in_channels": a.integer("3 | 1", "0 | -1 | None"),
            "num_classes": pick("None", f"0 | -1 | {a.NO_INTEGERS} | 5"),
            "stride": a.integer("1 | 8", "0 | -1 | None"),
        },
    ).map(lambda call: call.with_keywords(image_size="16", sigma_range="(0, 1)")),
    "ScoreNetwork.from_denoiser, methods": calls("denoised.eps", ResultCheck(like_first), [x_t, only(*GOOD_STEPS)]),
    "Denoiser, arguments": calls(
        "Denoiser",
        ResultCheck(like_first),
        [only("pixels((2, 3, 16, 16))"), only(*GOOD_STEPS), only(X_T)],
        first=a.networks,
        options={
            "max_batch": a.max_batch,
            "dtype": a.dtype,
            "compile": a.off,
            "differentiable": a.flag,
            "checkpointing": a.off,
        },
    ),
    "Denoiser, call": calls(
        "Denoiser(plain)",
        ResultCheck(like_first, lambda arguments: None),
        [images.wrapped, steps, x_t],
    ),
    "Denoiser, timesteps": calls(
        "Denoiser(plain)", ResultCheck(like_first), [only("pixels((2, 3, 16, 16))"), steps, only(X_T)]
    ),
    "Denoiser, labels": calls(
        "Denoiser(classes)",
        ResultCheck(like_first),
        [only("pixels((2, 3, 16, 16))"), only(*GOOD_STEPS), only(X_T), labels],
    ),
    "views_over_time": calls(
        "views_over_time",
        ResultCheck(pair_of_views),
        [
            pick("Denoiser(plain)", "plain | None | 'cifar10' | 7"),
            only("pixels((2, 3, 16, 16))"),
            pick("[0, 500] | (3,) | range(0, 900, 300)", "[1000] | [-1] | [0.5] | None | 't' | ['a'] | 7", "[]"),
        ],
        {"seed": a.integer("0 | 3 | np.int64(5)", "")},
    ),
    "load_score_network": calls(
        "load_score_network",
        ResultCheck(instance_of(ScoreNetwork)),
        [
            pick(
                "'cifar10' | Path('cifar10')",
                "None | 7 | '' | 'cifar-10' | '/no/such.pt' | 'no.pt' | '.' | '/' | 'a/b/c' | [] | plain"
                " | b'cifar10' | 'x' * 5000 | '\\0' | '~nobody/x' | Path('/dev/null') | '/dev/null' | 'setup.cfg'"
                " | object() | 1.5 | True",
            )
        ],
        {
            "dtype": a.dtype,
            "local_files_only": only("True"),
            "variant": pick("None", "'fp16' | 7 | []"),
            "subfolder": pick("None", "'unet' | 7 | '../..' | []"),
            "openai_flags": pick("None", [], "'--x 3' | 7 | {'a': 1}"),
            "revision": pick("None", "7", "'main'"),
            "token": pick("None", "7", "'x'"),
        },
    ),
    "NoiseSchedule": calls("NoiseSchedule", ResultCheck(instance_of(NoiseSchedule)), [betas]),
    "NoiseSchedule.named": calls(
        "NoiseSchedule.named",
        ResultCheck(instance_of(NoiseSchedule)),
        [a.choice("'linear' | 'cosine'", "'sqrt'"), T_COUNT],
    ),
    "NoiseSchedule.variance_exploding": calls(
        "NoiseSchedule.variance_exploding",
        ResultCheck(instance_of(NoiseSchedule)),
        [
            sigma_argument,
            a.number("1 | 100 | np.float32(50)", "0 | -1 | inf | 0.001"),
            a.integer("10 | 1000 | np.int64(20)", "0 | 1 | -1"),
        ],
    ),
    "NoiseSchedule.timestep_for_sigma": calls(
        "linear.timestep_for_sigma",
        ResultCheck(lambda arguments, result: None if type(result) is int else "no int"),
        [a.number("0.5 | 1 | 2 | np.float64(0.3)", "1e6 | inf", "0 | -1")],
    ),
    "NoiseSchedule.respaced": calls(
        "linear.respaced",
        ResultCheck(instance_of(NoiseSchedule)),
        [
            pick(
                "[0, 500] | range(0, 1000, 100) | (3,) | [999]",
                "[1000] | [3, 3] | [5, 4] | [] | [-1, 2] | [0.5] | None | 'x' | ['a'] | [None] | {} | [[1]]"
                " | torch.rand(3)",
                "7 | np.arange(3) | torch.arange(3)",
            )
        ],
    ),
    "match_timesteps": calls(
        "match_timesteps",
        ResultCheck(steps_complaint),
        [
            pick(
                "range(0, 451, 50) | [0, 999] | [] | (5, 5) | np.arange(4) | torch.arange(4)",
                "[1000] | [-1] | [0.5] | None | 7.5 | 'x' | ['a'] | [None] | [nan]",
                "7 | {3} | {3: 4}",
            ),
            schedules,
            a.integer("1 | 16 | 256 | 1024 | np.int64(32) | None", "0 | -1"),
        ],
        {
            "reference_schedule": pick("None | NoiseSchedule.named('cosine', 1000)", "'linear' | 7 | []"),
            "reference_size": a.integer("64 | 256", "0 | -1"),
        },
    ),
    "space_timesteps": calls(
        "space_timesteps",
        ResultCheck(steps_complaint),
        [
            a.integer("10 | 100 | 1000 | np.int64(50)", "0 | -1"),
            a.integer("2 | 5 | 10 | np.int64(5)", "0 | -1 | 100000 | 10**30", "1"),
        ],
    ),
    "space_timesteps, spacing": calls(
        "space_timesteps",
        ResultCheck(steps_complaint),
        [st.just("1000"), only("10", "50"), a.choice("'linspace' | 'leading'", "'trailing'")],
    ),
    "diffuse": calls("diffuse", ResultCheck(like_first), [only(X_T), only(*GOOD_STEPS), only(X_T), st.just("linear")]),
    "to_signed and back": calls(
        "(lambda image: to_unit(to_signed(image)))",
        ResultCheck(like_first),
        [only("pixels((2, 3, 16, 16))", "pixels((3, 1, 1))")],
    ),
    "sample": calls(
        "sampling.sample",
        ResultCheck(like_second),
        [pick("plain | exact | learned | null", "None | 'cifar10' | Denoiser(plain) | 7"), x_t],
        {
            "timesteps": pick(
                "[0, 500, 999] | range(0, 1000, 250) | (5,)",
                "[] | [1000] | [5, 4] | [0.5] | 'x' | 7 | [-1, 3] | ['a'] | [None]",
                "np.arange(3) | torch.arange(3)",
            ),
            "method": a.choice("'ancestral' | 'ddim'", "'euler'"),
            "eta": a.number("0 | 1 | 0.5", "-1 | 2"),
            "labels": UNUSED,
            "guide": pick("None", "7 | 'guide' | object() | []"),
            "noise": pick("None", "7 | [] | [None] * 3 | ['a'] * 3 | 'noise' | [torch.zeros(1)] * 3"),
            "generator": a.generator,
            "progress": pick("False", "'x' | None | 7"),
        },
    ).map(lambda call: call.with_keywords(timesteps="[0, 300, 600]")),
    "network.num_timesteps": calls(
        "(lambda network: (network.num_timesteps, network.dtype, str(network)) and torch.zeros(()))",
        ResultCheck(finite_scalar),
        [only("plain", "exact", "null", "exploding")],
    ),
}
