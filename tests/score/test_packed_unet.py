"""PackedUNet2DModel: a U-Net on blocks of pixels, through folders, padding and the engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.score import Denoiser
from diffaug_transforms.score.unet import PackedUNet2DModel, UNet2DModel, build_unet

CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
    "num_class_embeds": 5,
}


def packed_network(**config: Any) -> ScoreNetwork:
    torch.manual_seed(0)
    return ScoreNetwork.from_diffusers(PackedUNet2DModel(**CONFIG, **config), DDPMScheduler(), null_class=4).eval()


@pytest.mark.parametrize("outputs", [3, 6])
def test_equals_a_plain_unet_between_unshuffle_and_shuffle(outputs):
    unet = PackedUNet2DModel(patch_size=2, out_channels=outputs, **CONFIG)
    plain = UNet2DModel(in_channels=12, out_channels=4 * outputs, **CONFIG)
    plain.load_state_dict(unet.state_dict())
    x, t, labels = torch.randn(2, 3, 16, 20), torch.tensor([5, 900]), torch.tensor([0, 4])
    expected = pixel_shuffle(plain(pixel_unshuffle(x, 2), t, labels).sample, 2)
    assert torch.equal(unet(x, t, labels).sample, expected)
    assert torch.equal(unet(x, t, labels, return_dict=False)[0], expected)
    assert expected.shape == (2, outputs, 16, 20)


def test_a_saved_folder_loads_here_and_in_diffusers(tmp_path):
    network = packed_network(patch_size=2)
    network.save_pretrained(tmp_path)
    again = load_score_network(tmp_path)
    assert (again.in_channels, again.num_classes, again.image_size, again.stride) == (3, 4, 16, 4)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 900])
    assert torch.equal(again(x, t), network(x, t))
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    assert torch.equal(
        pipeline.unet(x, t, torch.tensor([4, 4])).sample, network.unet(x, t, torch.tensor([4, 4])).sample
    )


def test_any_side_is_padded_to_blocks_and_cropped():
    denoiser = Denoiser(packed_network(), dtype=torch.float32)
    images = torch.rand(2, 3, 15, 18)
    found = denoiser(images, torch.tensor([30, 400]), torch.randn(images.shape))
    assert found.shape == images.shape


def test_patch_size_and_openais_keys_are_not_mixed():
    with pytest.raises(
        ValueError, match="must have patch_size or OpenAI's keys, not both. Got .*num_heads.*patch_size"
    ):
        build_unet({**CONFIG, "patch_size": 2, "num_heads": 2}, "config.json")
    with pytest.raises(ValueError, match="patch_size"):
        build_unet({**CONFIG, "patch_size": 0}, "config.json")
