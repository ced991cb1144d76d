"""examples/noisy_images.py: views, times and noise, and the accuracy on noisy images, by hand."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import noisy_images
import numpy as np
import PIL.Image
import torch
from image_data import LabelledImages
from sample_views import Batches

from diffaug_transforms.guidance import NoisyClassifier
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.score.functional import scales
from tests.guidance.guidance_encoders import tiny_encoder


def test_times_are_uniform_and_the_noise_is_the_schedules():
    images = torch.full((4000, 1, 4, 4), 0.75)
    for schedule in (NoiseSchedule.named("linear", 100), NoiseSchedule.variance_exploding(0.1, 10, 100)):
        x_t, timesteps = noisy_images.diffuse_uniformly(images, schedule, (3, 1))
        assert torch.bincount(timesteps // 10, minlength=10).sub(400).abs().max() < 80  # 4 standard deviations
        signal_scale, noise_scale = scales(timesteps, schedule)
        noise = (x_t - 0.5 * signal_scale) / noise_scale
        assert noise.mean().abs() < 0.02
        assert (noise.std() - 1).abs() < 0.02
        again = noisy_images.diffuse_uniformly(images, schedule, (3, 1))
        assert torch.equal(x_t, again[0])
        assert not torch.equal(x_t, noisy_images.diffuse_uniformly(images, schedule, (3, 2))[0])


def test_percent_right_by_quarter_by_hand():
    right, timesteps = torch.tensor([True, False, True, True]), torch.tensor([0, 24, 25, 99])
    found = noisy_images.percent_right(right, timesteps, 100)
    assert found.pop("accuracy_q2").isnan()
    assert found == {"accuracy": 75.0, "accuracy_q0": 50.0, "accuracy_q1": 100.0, "accuracy_q3": 100.0}


def test_views_are_flips_of_small_images_and_crops_of_large_ones():
    small, large = (PIL.Image.fromarray(np.zeros((side, side + 10, 3), np.uint8)) for side in (32, 100))
    for size, image in ((32, small), (80, large)):
        for transform in noisy_images.geometry(size):
            view = noisy_images.one_view(transform, image)["image"]
            assert (view.shape, view.dtype) == ((3, size, size), torch.uint8)
    ramp = PIL.Image.fromarray(np.arange(32, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2))
    training, central = noisy_images.geometry(32)
    straight = noisy_images.one_view(central, ramp)["image"]
    seen = {tuple(noisy_images.one_view(training, ramp)["image"][0, 0].tolist()) for _ in range(20)}
    assert seen == {tuple(range(32)), tuple(range(31, -1, -1))}
    assert torch.equal(straight[0, 0], torch.arange(32, dtype=torch.uint8))


def test_batches_in_memory_are_the_loaders_with_other_flips():
    """They resume at any step, and two processes share them, as the loader's."""
    rng = np.random.default_rng(1)
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(5)]
    images = LabelledImages(pictures, list(range(5)), list("abcde"), None)
    pixels = noisy_images.decode_all(images, 16)
    assert torch.equal(pixels[3], torch.from_numpy(np.array(pictures[3])).permute(2, 0, 1))

    def found(*place: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = Batches(5, 4, 30, 7, *place)
        keys = [[index for _, index in batch] for batch in batches]
        drawn = [(v["image"], t) for v, t in noisy_images.batches_in_memory(pixels, images.labels, batches, seed=7)]
        assert [labels.tolist() for _, labels in drawn] == keys
        return drawn

    mirrored = 0
    for batch, labels in (whole := found()):
        straight = (batch == pixels[labels]).flatten(1).all(1)
        assert torch.equal(torch.where(straight[:, None, None, None], batch, batch.flip(3)), pixels[labels])
        mirrored += int((~straight).sum())
    assert 40 < mirrored < 80  # of 120
    resumed = found(0, 1, 20)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[20:], resumed, strict=True))
    assert not torch.equal(found(0, 2)[0][1], found(1, 2)[0][1])


def test_processes_share_the_test_images():
    """What two processes find adds up to what one finds alone, for the reduction to sum."""
    rng = np.random.default_rng(1)
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(5)]
    images = LabelledImages(pictures, list(range(5)), list("abcdefg"), None)
    classifier, schedule = NoisyClassifier(tiny_encoder()), NoiseSchedule.named("linear", 1000)

    def found(rank: int, world: int) -> list[torch.Tensor]:
        parts: list[torch.Tensor] = []
        process = SimpleNamespace(
            device=torch.device("cpu"),
            process_index=rank,
            num_processes=world,
            autocast=nullcontext,
            reduce=lambda part: parts.append(part) or part,
        )
        batches = noisy_images.noisy_batches(images, 16, schedule, process)
        noisy_images.accuracy_on_noise(classifier, images, schedule, process, batches)
        return parts

    first, second, (predicted, timesteps, _) = found(0, 2), found(1, 2), found(0, 1)
    assert torch.equal(first[0] + second[0], predicted)
    assert torch.equal(first[1] + second[1], timesteps)
    assert timesteps.min() > 0
    assert first[1][1] == second[1][0] == 0
