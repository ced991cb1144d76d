"""What measures and explains: corruptions of test images."""

from .corruptions import CORRUPTIONS, DATASETS, corrupt

__all__ = ["CORRUPTIONS", "DATASETS", "corrupt"]
