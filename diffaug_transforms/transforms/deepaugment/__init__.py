"""DeepAugment: an image-to-image network with random or randomly corrupted weights augments the image."""

from ...public_names import only_public
from .transform import REDRAW_PROBABILITY, DeepAugment
from .union import DeepAugmentUnion, as_deepaugments

__all__ = ["REDRAW_PROBABILITY", "DeepAugment", "DeepAugmentUnion", "as_deepaugments"]

__dir__ = only_public(__name__)
