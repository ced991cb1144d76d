"""DeepAugment's networks, uncorrupted, against the same networks of torch's modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffaug_transforms.transforms.deepaugment import cae, edsr, noise2net
from tests import contracts
from tests.transforms.deepaugment_files import SHAPES, generator, random_weights


def test_noise2net_draws_kernel_sizes_and_dilations():
    blocks = [block for seed in range(300) for block in noise2net.make_noise2net(seed)]
    sizes = [conv.shape[-1] for block in blocks for conv in block.convs]
    dilations = [dilation for block in blocks for dilation in block.dilations]
    assert len(blocks) == 1200
    # Standard deviation of a count of 3600: at most 30.
    assert abs(sizes.count(3) - 1800) < 150
    assert all(abs(dilations.count(d) - 1200) < 150 for d in (1, 2, 3))
    weights = torch.cat([block.project.flatten() for block in blocks])
    assert weights.abs().max() <= 1 / 8
    assert weights.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)


def test_a_block_equals_torch_modules():
    """A Res2Net bottleneck of torch's modules in training mode, with biases, which change nothing."""
    block = noise2net.make_block(generator(2))
    x = torch.randn(1, 3, 12, 13, generator=generator(3))

    def layer(weight, dilation=1):
        out, size, kernel = weight.shape[0], weight.shape[1], weight.shape[-1]
        conv = nn.Conv2d(size, out, kernel, padding=(kernel - 1) // 2 * dilation, dilation=dilation)
        conv.weight.data = weight
        return nn.Sequential(conv, nn.BatchNorm2d(out))

    parts = list(torch.relu(layer(block.expand)(x)).chunk(4, 1))
    done = [torch.relu(layer(block.convs[0], block.dilations[0])(parts[0]))]
    for i in (1, 2):
        done.append(torch.relu(layer(block.convs[i], block.dilations[i])(done[-1] + parts[i])))
    expected = layer(block.project)(torch.cat([*done, parts[3]], 1))
    torch.testing.assert_close(noise2net.run_block(block, x), expected, rtol=1e-4, atol=1e-4)


class ResBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))

    def forward(self, x):
        return x + self.body(x)


def test_edsr_equals_torch_modules():
    weights = random_weights("edsr")
    head = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1))
    body = nn.Sequential(*[ResBlock() for _ in range(16)], nn.Conv2d(64, 64, 3, padding=1))
    up = [nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2)]
    tail = nn.Sequential(nn.Sequential(*up), nn.Conv2d(64, 3, 3, padding=1))
    modules = nn.ModuleDict({"head": head, "body": body, "tail": tail})
    modules.load_state_dict(weights)
    image = contracts.images(8, batch=1)
    mean = torch.tensor(edsr.IMAGE_MEAN).reshape(3, 1, 1)
    first = head(255 * (image - mean))
    expected = (tail(first + body(first)) / 255 + mean).clamp(0, 1)
    scaled = edsr.with_scale(weights, *edsr.SCALES[0])
    torch.testing.assert_close(edsr.edsr(image, scaled), expected, rtol=1e-4, atol=1e-5)


def identity_edsr() -> dict[str, torch.Tensor]:
    """Features 0, 1, 2 are half the colours in the body, and the image is its nearest neighbours enlarged."""
    weights = {key: torch.zeros(shape) for key, shape in SHAPES["edsr"].items()}
    for c in range(3):
        weights["head.0.weight"][c, c, 1, 1] = 0.5
        weights["body.16.weight"][c, c, 1, 1] = 1
        weights["tail.1.weight"][c, c, 1, 1] = 1
        for name in ("tail.0.0", "tail.0.2"):
            weights[f"{name}.weight"][4 * c : 4 * c + 4, c, 1, 1] = 1
    return weights


def test_the_scale_of_a_checkpoint_is_found(tmp_path):
    """One that adds a shade of 255 keeps grey on the official scale; one that rectifies keeps it in [0, 1] alone."""
    official, hub = identity_edsr(), identity_edsr()
    official["tail.1.bias"] += 1
    for c in range(3):
        hub["body.0.body.0.weight"][c, c, 1, 1] = -1
        hub["body.0.body.2.weight"][c, c, 1, 1] = 1
    for weights, factor in ((official, 255), (hub, 1)):
        mean_shift = {"sub_mean.weight": torch.eye(3).reshape(3, 3, 1, 1), "sub_mean.bias": torch.zeros(3)}
        torch.save({f"module.{key}": value for key, value in {**weights, **mean_shift}.items()}, tmp_path / "x.pt")
        read = edsr.load_edsr(tmp_path / "x.pt")
        assert read["image.factor"] == factor
        image = contracts.images(4, batch=1)
        expected = (image.repeat_interleave(4, 2).repeat_interleave(4, 3) + (factor == 255) / 255).clamp(0, 1)
        torch.testing.assert_close(edsr.edsr(image, read), expected, rtol=0, atol=1e-5)


def test_the_autoencoder_equals_torch_modules():
    """Encoder and decoder of torch's modules, by the original's names."""
    weights = random_weights("cae")

    def block():
        convs = [nn.ZeroPad2d(1), nn.Conv2d(128, 128, 3), nn.LeakyReLU(), nn.ZeroPad2d(1), nn.Conv2d(128, 128, 3)]
        return nn.Sequential(*convs)

    def up(inside, middle, out):
        turned = nn.ConvTranspose2d(middle, out, 2, stride=2)
        return nn.Sequential(nn.Conv2d(inside, middle, 3), nn.LeakyReLU(), nn.ZeroPad2d(1), turned)

    pad = (1, 2, 1, 2)
    m = nn.ModuleDict({f"{side}_block_{i}": block() for side in "ed" for i in (1, 2, 3)})
    m["e_conv_1"] = nn.Sequential(nn.ZeroPad2d(pad), nn.Conv2d(3, 64, 5, stride=2), nn.LeakyReLU())
    m["e_conv_2"] = nn.Sequential(nn.ZeroPad2d(pad), nn.Conv2d(64, 128, 5, stride=2), nn.LeakyReLU())
    m["e_conv_3"] = nn.Sequential(nn.Conv2d(128, 32, 5, padding=2), nn.Tanh())
    m["d_up_conv_1"], m["d_up_conv_2"] = up(32, 64, 128), up(128, 32, 256)
    last = [nn.Conv2d(256, 16, 3), nn.LeakyReLU(), nn.ReflectionPad2d(2), nn.Conv2d(16, 3, 3), nn.Tanh()]
    m["d_up_conv_3"] = nn.Sequential(*last)
    m.load_state_dict(weights)
    x = image = contracts.images(24, batch=1)
    x = m["e_conv_2"](m["e_conv_1"](x))
    for i in (1, 2, 3):
        x = x + m[f"e_block_{i}"](x)
    code = m["e_conv_3"](x)
    assert code.shape == (1, 32, 6, 6)
    torch.testing.assert_close(cae.encode(image, weights), code, rtol=1e-4, atol=1e-5)
    bits = cae.binarize(code, generator())
    x = m["d_up_conv_1"](2 * bits - 1)
    for i in (1, 2, 3):
        x = x + m[f"d_block_{i}"](x)
    expected = m["d_up_conv_3"](m["d_up_conv_2"](x))
    assert expected.shape == image.shape
    torch.testing.assert_close(cae.decode(bits, weights), expected, rtol=1e-4, atol=1e-5)
