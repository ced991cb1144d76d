"""Augment images before training, for when augmenting inside the training loop is too slow. `diffaug augment` runs it.

    copies.py    one copy of an image: its seeds, its draw, its file
    local.py     folder tree -> the same tree of augmented copies, on this machine
    ray_data.py  folder, Parquet files or WebDataset shards -> shards, on Ray Data, on one machine or many

A copy's draw depends only on the seed, the image's path and the number of the copy. Both ways give the same pixels.
"""

from .local import augment_folder
from .ray_data import augment_dataset

__all__ = ["augment_dataset", "augment_folder"]
