"""How many workers fit Ray's resources. No Ray is needed."""

from __future__ import annotations

import pytest

from diffaug_transforms.offline.cluster import plan_workers


@pytest.mark.parametrize(
    ("resources", "options", "expected"),
    [
        ({"CPU": 8}, {}, (5, 0, "cpu")),
        ({"CPU": 2}, {}, (1, 0, "cpu")),
        ({"CPU": 8}, {"asked": 2}, (2, 0, "cpu")),
        ({"CPU": 32, "GPU": 4}, {}, (4, 1, "cuda")),
        ({"CPU": 32, "GPU": 4}, {"asked": 2, "device": "cuda"}, (2, 1, "cuda")),
        ({"CPU": 32, "GPU": 4}, {"device": "cpu"}, (29, 0, "cpu")),
        ({"CPU": 32, "GPU": 4}, {"gpus_per_worker": 0.5}, (8, 0.5, "cuda")),
        ({"CPU": 32, "GPU": 2}, {"gpus_per_worker": 0.4}, (4, 0.4, "cuda")),
        ({"CPU": 32, "GPU": 4}, {"gpus_per_worker": 2}, (2, 2, "cuda")),
    ],
)
def test_workers_fit(resources, options, expected):
    plan = plan_workers(resources, options.pop("asked", None), options.pop("device", None), **options)
    assert plan[:3] == expected
    assert plan.note == ""


def test_fewer_workers_are_said():
    assert plan_workers({"CPU": 32, "GPU": 2}, 8, None) == (
        2, 1, "cuda", "2 workers run instead of 8: Ray has 2 GPUs, 1 for each worker",
    )  # fmt: skip
    note = "1 worker runs instead of 4: Ray has 4 cores, 3 of them for reading and writing"
    assert plan_workers({"CPU": 4}, 4, "cpu").note == note
    assert plan_workers({"CPU": 4, "GPU": 8}, 4, None)[:3] == (1, 1, "cuda")


@pytest.mark.parametrize(
    ("resources", "options", "message"),
    [
        (
            {"CPU": 8, "GPU": 2},
            {"device": "cuda:1"},
            "which gives each worker a GPU of its own. Got cuda:1.*_DEVICES=1",
        ),
        ({"CPU": 8}, {"device": "cuda"}, "device cuda needs 1 GPU for each worker, and Ray has 0"),
        ({"CPU": 8, "GPU": 1}, {"gpus_per_worker": 2}, "device cuda needs 2 GPU for each worker, and Ray has 1"),
        (
            {"CPU": 8, "GPU": 4},
            {"gpus_per_worker": 1.5},
            "gpus_per_worker must be at most 1, or a whole number. Got 1.5",
        ),
        ({"CPU": 8, "GPU": 4}, {"gpus_per_worker": 0}, "gpus_per_worker must be finite and above 0. Got 0"),
        ({"CPU": 8}, {"asked": 0}, "workers must be at least 1. Got 0"),
    ],
)
def test_what_does_not_fit_is_refused(resources, options, message):
    with pytest.raises(ValueError, match=message):
        plan_workers(resources, options.pop("asked", None), options.pop("device", None), **options)
