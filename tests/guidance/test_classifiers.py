"""Classifiers of noisy images: what they call, whose gradient they give, and what they keep and save."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance import DenoiseAugmentedClassifier, NoisyClassifier, load_guidance_classifier
from tests.conftest import GaussianOracle, tiny_unet
from tests.guidance.guidance_encoders import tiny_encoder

T, LABELS = torch.tensor([20, 300]), torch.tensor([2, 6])
X_T = 0.5 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NAMES = tuple("abcdefg")


@pytest.fixture
def augmented(network: ScoreNetwork) -> DenoiseAugmentedClassifier:
    return DenoiseAugmentedClassifier(tiny_encoder(0.2), network, dtype=torch.float32).eval()


def gradient(classifier: torch.nn.Module, x_t: Tensor = X_T) -> Tensor:
    x_t = x_t.clone().requires_grad_()
    log_prob = classifier(x_t, T).log_softmax(1).gather(1, LABELS[:, None]).sum()
    return torch.autograd.grad(log_prob, x_t)[0]


def test_they_call_the_encoder(augmented, network):
    encoder = tiny_encoder()
    assert torch.equal(NoisyClassifier(encoder)(X_T, T), encoder(X_T, T))
    expected = augmented.encoder(X_T, T, network.pred_x0(X_T, T))
    assert torch.allclose(augmented(X_T, T), expected, atol=1e-6)
    assert augmented.denoise(X_T, T).abs().max() <= 1
    for classifier in (NoisyClassifier(encoder), augmented):
        assert classifier(X_T[:0], T[:0]).shape == (0, 7)


def test_total_and_partial_derivative_by_hand(augmented, network):
    """d log p / d x_t = partial by x_t + J^T partial by pred_x0, J the denoiser's Jacobian, clip included."""
    x_t, leaf = X_T.clone().requires_grad_(), X_T.clone().requires_grad_()
    denoised = network.pred_x0(leaf, T)
    pred_x0 = denoised.detach().requires_grad_()
    log_prob = augmented.encoder(x_t, T, pred_x0).log_softmax(1).gather(1, LABELS[:, None]).sum()
    partial, by_pred_x0 = torch.autograd.grad(log_prob, (x_t, pred_x0))
    (through,) = torch.autograd.grad(denoised, leaf, by_pred_x0)
    total = gradient(augmented)
    assert torch.allclose(total, partial + through, atol=1e-6)
    assert through.norm() > 0.1 * partial.norm()
    stopped = DenoiseAugmentedClassifier(augmented.encoder, network, through_network=False, dtype=torch.float32)
    assert torch.allclose(gradient(stopped), partial, atol=1e-6)
    assert torch.allclose(stopped(X_T, T), augmented(X_T, T), atol=1e-6)


def test_checkpointing_gives_the_same_gradient(augmented, schedule):
    expected = gradient(augmented)
    noisy = gradient(NoisyClassifier(tiny_encoder()))
    network = ScoreNetwork(tiny_unet(), schedule)
    saving = DenoiseAugmentedClassifier(tiny_encoder(0.2), network, checkpointing=True, dtype=torch.float32)
    calls = []
    for block in (saving.encoder.down_blocks[0].resnets[0], network.unet.down_blocks[0].resnets[0]):
        block.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    assert torch.allclose(gradient(saving), expected, atol=1e-6)
    assert len(calls) == 4  # each block is computed again in the backward pass
    assert not saving.encoder.is_gradient_checkpointing
    assert not network.unet.is_gradient_checkpointing
    assert torch.allclose(gradient(NoisyClassifier(tiny_encoder(), checkpointing=True)), noisy, atol=1e-6)


def test_only_the_encoder_trains(augmented):
    assert all(name.startswith("encoder.") for name in augmented.state_dict())
    augmented.train()
    assert not augmented.network.training
    torch.nn.functional.cross_entropy(augmented(X_T, T), LABELS).backward()
    assert all(parameter.grad is not None for parameter in augmented.parameters())
    assert all(p.grad is None and not p.requires_grad for p in augmented.network.parameters())


def test_dtypes_and_autocast(augmented, network):
    expected = augmented(X_T, T)
    scale = expected.abs().max().item()
    half = DenoiseAugmentedClassifier(augmented.encoder, network, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = augmented(X_T, T)
    lower = copy.deepcopy(half).to(torch.bfloat16)
    for logits in (half(X_T, T), mixed, lower(X_T, T), lower(X_T.bfloat16(), T)):
        assert logits.dtype == torch.float32
        assert 0 < (logits - expected).abs().max() < 0.1 * scale
    assert augmented.double().denoiser.ready("cpu").dtype == torch.float32


def test_copies_and_pickles(augmented):
    expected = augmented(X_T, T)
    for same in (copy.deepcopy(augmented), pickle.loads(pickle.dumps(augmented))):
        assert torch.equal(same(X_T, T), expected)


def test_the_network_follows_to_another_device(augmented, monkeypatch):
    devices = []
    monkeypatch.setattr(augmented.denoiser, "ready", devices.append)
    augmented.to("meta")
    assert devices == [torch.device("meta")]


def test_save_and_load(augmented, network, tmp_path):
    NoisyClassifier(tiny_encoder(), classes=NAMES).save_pretrained(tmp_path / "noisy")
    noisy = load_guidance_classifier(tmp_path / "noisy")
    assert isinstance(noisy, NoisyClassifier)
    assert (noisy.classes, noisy.training) == (list(NAMES), False)
    assert torch.equal(noisy(X_T, T), tiny_encoder()(X_T, T))
    augmented.save_pretrained(tmp_path / "augmented")
    with pytest.raises(ValueError, match="names no score network.*pass network"):
        load_guidance_classifier(tmp_path / "augmented")
    again = load_guidance_classifier(tmp_path / "augmented", network=network)
    again.denoiser.dtype = torch.float32
    assert again.classes is None
    assert torch.equal(again(X_T, T), augmented(X_T, T))
    with pytest.raises(ValueError, match="network is for denoise-augmented classifiers. Got it with the noisy one"):
        load_guidance_classifier(tmp_path / "noisy", network=network)


def test_a_folder_names_its_network(network, tmp_path):
    network.save_pretrained(tmp_path / "network")
    options = {"classes": NAMES, "through_network": False}
    classifier = DenoiseAugmentedClassifier(tiny_encoder(0.2).eval(), tmp_path / "network", **options)
    classifier.save_pretrained(tmp_path / "classifier")
    again = load_guidance_classifier(tmp_path / "classifier")
    assert f"Denoiser('{tmp_path / 'network'}')" in repr(again)
    assert not again.through_network
    assert again.classes == list(NAMES)
    assert torch.equal(again(X_T, T), classifier(X_T, T))


def test_damaged_folders(tmp_path):
    NoisyClassifier(tiny_encoder()).save_pretrained(tmp_path)
    config = (tmp_path / "encoder" / "config.json").read_text()
    (tmp_path / "encoder" / "config.json").write_text(config.replace('"num_classes": 7', '"num_classes": 8'))
    with pytest.raises(OSError, match=r"(?s)do not fit config.json: .*pool.c_proj"):
        load_guidance_classifier(tmp_path)
    (tmp_path / "encoder" / "config.json").write_text(config[:40])
    with pytest.raises(OSError, match=r"config.json is damaged"):
        load_guidance_classifier(tmp_path)
    (tmp_path / "encoder" / "config.json").write_text(config)
    weights = tmp_path / "encoder" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(OSError, match="damaged, incomplete or no state dict"):
        load_guidance_classifier(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match=r"Missing: \['encoder/diffusion_pytorch_model.safetensors'\]"):
        load_guidance_classifier(tmp_path)


def test_other_sizes_than_the_networks(schedule):
    """The network is for 64 pixels and has strides of 32: 16 pixels are padded, and one warning tells of it."""
    oracle, seen = GaussianOracle(schedule, size=64), []
    oracle.config.block_out_channels = (32,) * 6
    oracle.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    classifier = DenoiseAugmentedClassifier(tiny_encoder(0.2), ScoreNetwork(oracle, schedule), dtype=torch.float32)
    with pytest.warns(UserWarning, match="16x16 pixels are far from the network's 64x64") as warned:
        logits = [classifier(X_T, T) for _ in range(2)]
    assert (logits[0].shape, len(warned), seen) == ((2, 7), 1, [(2, 3, 32, 32)] * 2)


def test_bad_arguments(network, conditional):
    with pytest.raises(ValueError, match="encoder must be of the noisy form. Got the denoise-augmented one"):
        NoisyClassifier(tiny_encoder(0.1))
    with pytest.raises(ValueError, match=r"denoise-augmented form: encoder.with_denoised_input\(\). Got noisy"):
        DenoiseAugmentedClassifier(tiny_encoder(), network)
    with pytest.raises(ValueError, match="classes must be 7 names, one per class. Got 2"):
        NoisyClassifier(tiny_encoder(), classes=["a", "b"])
    with pytest.raises(TypeError, match="classes must be a list of names, .* Got 'abcdefg'"):
        NoisyClassifier(tiny_encoder(), classes="abcdefg")
    for make in (NoisyClassifier, DenoiseAugmentedClassifier):
        with pytest.raises(TypeError, match="encoder must be a GuidanceEncoder. Got None"):
            make(None)
        with pytest.raises(TypeError, match="checkpointing must be True or False. Got 1"):
            make(tiny_encoder(), checkpointing=1)
    with pytest.raises(TypeError, match="path must be a path. Got None"):
        load_guidance_classifier(None)
    with pytest.raises(TypeError, match="network must be a name, a path, a ScoreNetwork or a Denoiser. Got 5"):
        DenoiseAugmentedClassifier(tiny_encoder(0.1), 5)  # type: ignore[arg-type]
    classifier = DenoiseAugmentedClassifier(tiny_encoder(0.1), network)
    with pytest.raises(ValueError, match="x_t must have the classifier's 16x16 pixels. Got 32x32"):
        classifier(torch.zeros(2, 3, 32, 32), T)
    with pytest.raises(ValueError, match="timesteps must be in 0...999 for this network. Got 1000"):
        classifier(X_T, torch.tensor([3, 1000]))
    with pytest.raises(ValueError, match="this network needs labels in 0...4: it has no null class"):
        DenoiseAugmentedClassifier(tiny_encoder(0.1), conditional)(X_T, T)
