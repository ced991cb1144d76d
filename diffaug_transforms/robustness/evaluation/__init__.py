"""How accurate a classifier is on clean, corrupted and shifted images, alone and with the methods for test time.

evaluate.py     evaluate(): the whole, from a name and a folder to records
classifiers.py  CLASSIFIER -> a module of images in [0, 1]
data.py         DATA -> a test set labelled by the classifier's classes; sets.py: Hub data and published sets by name
modes.py        the table of methods: their views of an image, and their answers
judging.py      the loop over parts and images, on one or several processes; answers.py: what a classifier says
batches.py      batches of images and the noise that belongs to each image
plan.py         how many network calls and how long
report.py       standard errors, means over corruptions, a table, a picture
records.py      tidy records, finished parts on the disk; digests.py: what these depend on
"""

from ...public_names import only_public
from .classifiers import OpenedClassifier, open_classifier
from .data import TestSet, open_data
from .evaluate import evaluate
from .modes import MODES

__all__ = ["MODES", "OpenedClassifier", "TestSet", "evaluate", "open_classifier", "open_data"]

__dir__ = only_public(__name__)
