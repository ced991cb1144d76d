"""The package beside the original public code, on equal inputs and draws.

Each module names its source. Its ``comparisons`` yield (case, ours, the source's), and ``FORMULAS`` says what each kind
of case is, by the part of its name before the comma. The source's numbers are in
``tests/reference``; the module ``make_...`` beside it wrote them, from a clone of the source's repository.
``python -m tests.fidelity`` writes the largest differences into docs/fidelity.md.
"""

from . import (
    augmix,
    corruptions,
    dda,
    ddpmpp,
    deepaugment,
    evaluator,
    guided_diffusion,
    openai_networks,
    openood,
    score_sde,
)

MODULES = (
    augmix,
    corruptions,
    dda,
    ddpmpp,
    deepaugment,
    evaluator,
    guided_diffusion,
    openai_networks,
    openood,
    score_sde,
)
