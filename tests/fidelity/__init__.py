"""The package beside the original public code, on equal inputs and draws.

Each module names its source. Its ``comparisons`` yield (case, ours, the source's). The source's numbers are in
``tests/reference``; the module ``make_...`` beside it wrote them, from a clone of the source's repository.
``python -m tests.fidelity`` prints the largest differences.
"""

from . import augmix, corruptions, dda, ddpmpp, deepaugment, evaluator, guided_diffusion, openood, score_sde

MODULES = (augmix, corruptions, dda, ddpmpp, deepaugment, evaluator, guided_diffusion, openood, score_sde)
