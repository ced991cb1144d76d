"""Augment images before training, for when augmenting inside the training loop is too slow. `diffaug augment` runs it.

    copies.py    one copy of an image: its seeds, its size, its file        folders.py  the pictures under a folder
    batches.py   images of many sizes -> the network -> files in memory     overlap.py  reading and writing in threads
    first.py     how large the first picture is, to choose a network
    record.py    the options that copies were made with                     shards.py   WebDataset samples
    local.py     folder tree -> the same tree of augmented copies, on this machine
    local_shards.py  Hub data set, Parquet files (tables.py) or WebDataset shards -> shards, on this machine
    ray_data.py  folder, Parquet files or WebDataset shards -> shards, on Ray Data, on one machine or many
                 (cluster.py: Ray's resources; ray_rows.py: sources -> rows)

A copy's draw depends only on the seed, the image's path and the number of the copy. All ways give the same pixels.
"""

from ..public_names import only_public
from .copies import ResizeAndCrop
from .folders import is_image_folder
from .local import augment_folder
from .local_shards import augment_shards
from .ray_data import augment_dataset

__all__ = ["ResizeAndCrop", "augment_dataset", "augment_folder", "augment_shards", "is_image_folder"]

__dir__ = only_public(__name__)
