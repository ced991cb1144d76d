"""Good and bad values of arguments. One strategy for each kind of argument, used wherever that kind occurs."""

from __future__ import annotations

from .values import Values, pick

#: What is no number, and what is no integer.
NO_NUMBERS = "'half' | [0.5] | {} | 1j | object() | torch.rand(2) | np.array([0.5, 0.5]) | b'1' | nan | -inf"
NO_INTEGERS = "True | nan | inf | 0.5 | np.float64(2) | '3' | [3] | (1, 2) | {} | 1j | object() | torch.rand(2)"

probability = pick(
    "0 | 1 | 0.5 | 1.0 | 0.0 | np.float32(0.5) | np.int64(1)",
    f"inf | -0.1 | 1.5 | 2 | 10**400 | None | {NO_NUMBERS}",
    "True | torch.tensor(0.5) | '0.5'",
)
max_batch = pick("None | 1 | 2 | 3 | 1000 | np.int64(2)", f"0 | -1 | 1.5 | {NO_INTEGERS}", "torch.tensor(2)")
dtype = pick(
    "None | torch.float32 | torch.bfloat16 | torch.float64",
    "torch.int64 | torch.bool | torch.complex64 | torch.float8_e4m3fn | 'bfloat16' | 'float32' | float"
    " | np.float32 | 32",
    "torch.float16",
)
flag = pick("True | False", "None | 1 | 'yes' | [] | nan | object()", "np.bool_(True)")
#: A switch that is never on: compiling takes seconds, for example.
off = pick("False", "None | 0 | 'no' | [] | nan")
generator = pick(
    "None | seeded() | seeded(3)",
    "42 | '0' | torch | np.random.default_rng(0) | [] | True | object() | nan | torch.rand(2)",
)
timesteps = pick(
    "None | 500 | 0 | 999 | range(350, 701, 50) | [300, 300, 0] | (5,) | np.int64(9) | np.arange(5) | {1, 2}"
    " | torch.tensor([3, 4]) | torch.tensor(7) | (t for t in [1, 2]) | [np.int32(4), 5]",
    "1000 | -1 | [0, 1000] | [] | range(0) | () | [-1] | 0.5 | [0.5] | nan | [nan] | '500' | [None] | ['a'] | 10**30"
    " | torch.tensor([0.5]) | torch.tensor([]) | np.array([1.5]) | True | object() | [[1, 2]] | 1j | [1j] | b'12'"
    " | torch.tensor([[1, 2]]) | range(990, 1010) | torch.rand(2, 2)",
    "{3: 4}",
)
normalize = pick(
    "None | ([0.5], [0.5]) | ([0.5] * 3, [0.2] * 3) | (0.5, 0.5) | [[0.5] * 3, [0.2] * 3] | (np.full(3, 0.5), 0.5)"
    " | v2.Normalize([0.5] * 3, [0.5] * 3) | nn.Identity() | (lambda x: x) | (torch.full((3,), 0.5), torch.ones(3))",
    "'imagenet' | 0.5 | ([0.5], [0.0]) | ([0.5] * 3, [0.2] * 2) | ([0.5],) | ([nan] * 3, [1] * 3) | (None, None)"
    " | ([], []) | ([0.5], [-1]) | ([0.5], [inf]) | (['a'], ['b']) | {} | 7 | object() | ([0.5], [0.5], [0.5])"
    " | ([1j], [1]) | (torch.rand(3, 3), 1) | nn.Identity",
    "([0.5] * 2, [0.5] * 2) | ([0.5] * 4, 0.5)",
)
NO_NETWORKS = (
    "None | 7 | 'cifar-10' | 'no-such-network' | '' | '/no/such/folder' | Path('/no/such') | [] | object() | nan | True"
    " | nn.Identity() | tiny_unet() | plain.unet | linear | ScoreNetwork | b'cifar10'"
)
#: A Denoiser is left out: it refuses options beside it.
networks = pick("plain | plain | exact | null | learned | exploding | denoised", NO_NETWORKS)
classifier = pick(
    "head | convnet | half_net | bfloat_net | double_net | (lambda x: head(x))",
    "None | 'resnet18' | 7 | nn.Linear | [] | {} | object() | torch.rand(3) | nan",
)
severity = pick("1 | 2 | 5 | 3 | np.int64(4)", f"0 | 6 | 3.0 | 2.5 | -1 | 10**30 | None | {NO_INTEGERS}")


def integer(good: str, bad: str = "", either: str = "") -> Values:
    """An integer argument: its own good and bad values, and what is never an integer."""
    return pick(good, f"{bad} | {NO_INTEGERS}", f"{either} | torch.tensor(3)")


def number(good: str, bad: str = "", either: str = "") -> Values:
    """A number argument: its own good and bad values, and what is never a finite number."""
    return pick(good, f"{bad} | None | {NO_NUMBERS}", f"{either} | True")


def choice(good: str, bad: str = "") -> Values:
    """One of several names."""
    first = good.split(" | ")[0]
    return pick(good, f"{bad} | '' | 'nonsense' | None | 7 | [] | {{}} | object() | nan | [{first}]")
