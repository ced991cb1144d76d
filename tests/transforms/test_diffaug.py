from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors
from torchvision.transforms import v2

from diffaug_transforms import DiffAug, ScoreNetwork
from diffaug_transforms.score import Denoiser
from diffaug_transforms.score.preparing import VECTORISED_PIXELS, fast_dtype
from tests import contracts
from tests.conftest import tiny_unet

SIZE = 16
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8]


@pytest.fixture
def make(network):
    return lambda **options: DiffAug(network, **{"dtype": torch.float32, **options})


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_type_shape_and_range(make, dtype):
    contracts.check_type_shape_and_range(make, SIZE, dtype)


@pytest.mark.parametrize("check", [*contracts.CHECKS, *contracts.CHECKS_OF_SEEDS])
def test_contract(make, check):
    check(make, SIZE)


def test_the_embedded_network_keeps_the_contracts():
    contracts.check_type_shape_and_range(DiffAug, 32, torch.uint8)
    contracts.check_pickles_and_copies(DiffAug, 32)


@pytest.mark.parametrize("t", [0, 40, 400, 999])
def test_the_gaussian_oracle_is_met_at_every_t(oracle, schedule, t):
    """Through the whole transform, on uint8 images, to the rounding of uint8."""
    transform = DiffAug(ScoreNetwork(oracle, schedule), timesteps=t, dtype=torch.float32)
    batch = contracts.images(8, dtype=torch.uint8)
    params = transform.make_params([batch])
    x_t = schedule.signal_scale[t] * (batch / 127.5 - 1) + schedule.noise_scale[t] * params["noise"]
    exact = (oracle.posterior_mean(x_t, params["timesteps"]).clamp(-1, 1) + 1) * 127.5
    assert (transform.transform(batch, params) - exact).abs().max() <= 0.501


def test_timesteps_are_drawn_per_sample_and_uniformly(make):
    transform = make(timesteps=[3, 3, 500, 900])
    torch.manual_seed(0)
    drawn = transform.make_params([torch.rand(8000, 3, 1, 1)])["timesteps"]
    counts = {t: int((drawn == t).sum()) for t in (3, 500, 900)}
    assert sum(counts.values()) == 8000
    # Standard deviation of a binomial count of 8000 draws: at most 45.
    assert abs(counts[3] - 4000) < 200
    assert abs(counts[500] - 2000) < 200


@pytest.mark.parametrize(
    ("timesteps", "expected"),
    [(7, {7}), (range(350, 701, 50), set(range(350, 701, 50))), (torch.tensor([1, 2]), {1, 2})],
)
def test_forms_of_timesteps(make, timesteps, expected):
    drawn = make(timesteps=timesteps).make_params([torch.rand(500, 3, 2, 2)])["timesteps"]
    assert set(drawn.tolist()) == expected
    assert drawn.dtype == torch.int64


def test_default_timesteps_are_the_networks(make, network):
    drawn = make().make_params([torch.rand(5000, 3, 1, 1)])["timesteps"]
    assert set(drawn.tolist()) <= set(network.augment_timesteps)
    assert drawn.max() > 500


def test_p_picks_samples_and_the_others_stay_as_they_were(make):
    transform = make(p=0.5)
    for dtype in FLOATS:
        batch = contracts.images(SIZE, batch=32, dtype=dtype)
        output = contracts.seeded(transform, batch)
        same = [torch.equal(a, b) for a, b in zip(output, batch)]
        assert 4 < sum(same) < 28
    assert torch.equal(make(p=0.0)(batch), batch)


def test_only_picked_samples_go_through_the_network(make, network):
    seen = []
    network.unet.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    transform, batch = make(), contracts.images(SIZE)
    params = {**transform.make_params([batch]), "selected": torch.tensor([True, False, False, True])}
    transform.transform(batch, params)
    assert seen == [2]


def test_gradients_only_where_differentiable(make):
    batch = contracts.images(SIZE).requires_grad_()
    assert not make()(batch).requires_grad
    contracts.seeded(make(differentiable=True, timesteps=50, p=0.5), batch).sum().backward()
    assert (batch.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("size", [(15, 16), (7, 9), (1, 1)])
def test_sides_that_the_strides_do_not_divide(make, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert make()(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_labels_travel_to_conditional_networks(conditional):
    transform = DiffAug(conditional, conditional=True, timesteps=300, dtype=torch.float32)
    batch, labels = contracts.images(SIZE), torch.tensor([0, 1, 2, 3])
    first, _ = contracts.seeded(transform, batch, labels)
    other, _ = contracts.seeded(transform, batch, labels.flip(0))
    assert not torch.equal(first, other)
    for sample in (
        {"image": batch, "label": labels},
        {"Labels": labels, "other label": labels.flip(0), "image": batch},
        {"label": labels.tolist(), "image": list(batch)},
        (batch, {"boxes": None, "labels": labels.numpy()}),
    ):
        output = contracts.seeded(transform, sample)
        images = output[0] if isinstance(output, tuple) else output["image"]
        assert torch.equal(torch.stack(list(images)), first)
    by_getter = DiffAug(
        conditional, conditional=True, labels_getter=lambda sample: sample[2], timesteps=300, dtype=torch.float32
    )
    assert torch.equal(contracts.seeded(by_getter, batch, "a", labels)[0], first)
    one, label = contracts.seeded(transform, v2.functional.to_pil_image(batch[0]), 3)
    assert label == 3
    assert one.size == (SIZE, SIZE)


def test_labels_of_picked_samples_alone(conditional):
    transform = DiffAug(conditional, conditional=True, timesteps=300, p=0.5, dtype=torch.float32)
    batch, labels = contracts.images(SIZE), torch.tensor([0, 1, 2, 3])
    params = {**transform.make_params([batch]), "labels": labels, "selected": torch.tensor([False, True, True, False])}
    everything = {name: value for name, value in params.items() if name != "selected"}
    picked, all_of_them = transform.transform(batch, params), transform.transform(batch, everything)
    assert torch.equal(picked[0], batch[0])
    torch.testing.assert_close(picked[1:3], all_of_them[1:3], rtol=1e-4, atol=1e-4)


def test_nothing_is_a_label_unless_asked_for(null_conditional):
    """A network with classes uses its null class, whatever follows the images."""
    transform = DiffAug(null_conditional, timesteps=300, dtype=torch.float32)
    batch = contracts.images(SIZE)
    unlabelled = contracts.seeded(transform, batch)
    soft, boxes = torch.rand(4, 5), tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(SIZE, SIZE))
    for rest in (
        (torch.arange(4),),
        (torch.tensor([5, 17, 3, 99]),),
        (torch.tensor([0]),),
        (soft,),
        ("cat",),
        (["cat", "dog"],),
        (7, torch.arange(4)),
        ({"boxes": boxes, "labels": torch.tensor([55])},),
        (None,),
    ):
        output = contracts.seeded(transform, batch, *rest)
        assert torch.equal(output[0], unlabelled)
        pairs = zip(tree_leaves(output[1:]), tree_leaves(rest), strict=True)
        assert all(after is before for after, before in pairs)
    labelled = DiffAug(null_conditional, conditional=True, timesteps=300, dtype=torch.float32)
    assert not torch.equal(contracts.seeded(labelled, batch, torch.arange(4))[0], unlabelled)
    pipeline = v2.Compose([DiffAug(null_conditional), v2.MixUp(num_classes=100)])
    assert pipeline(batch, torch.tensor([5, 17, 3, 99]))[1].shape == (4, 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conditional": 1}, "conditional must be True or False. Got 1"),
        ({"labels_getter": "targets"}, "labels_getter must be \"default\", a callable or None. Got 'targets'"),
        ({"labels_getter": 3}, 'labels_getter must be "default", a callable or None. Got 3'),
        ({"conditional": True, "labels_getter": None}, "conditional=True needs a labels_getter. Got None"),
        ({"generator": 42}, "generator must be a torch.Generator or None. Got 42"),
        ({"p": "0.5"}, "p must be a number. Got '0.5'"),
        ({"dtype": "bfloat16"}, "dtype must be a torch.dtype"),
        ({"compile": "yes"}, "compile must be True, False, or one of default, .* Got 'yes'"),
        ({"timesteps": 0.5}, "timesteps must be integers, or one integer. Got 0.5"),
        ({"timesteps": "3"}, "timesteps must be integers, or one integer. Got '3'"),
        ({"max_batch": 1.5}, "max_batch must be an integer. Got 1.5"),
    ],
)
def test_bad_arguments(make, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(**arguments)


def test_conditional_needs_a_network_with_classes(make):
    with pytest.raises(ValueError, match="conditional=True needs a network with classes. Got <16px ScoreNetwork>"):
        make(conditional=True)(contracts.images(SIZE), torch.arange(4))


def test_images_of_one_shape_in_a_sample_share_the_draw(make):
    batch = contracts.images(SIZE, batch=1)[0]
    picture = v2.functional.to_pil_image(batch)
    first, second, other = make()((picture, picture, picture.resize((20, 20))))
    assert first.tobytes() == second.tobytes()
    assert other.size == (20, 20)


def test_a_list_goes_through_the_network_as_one_batch(make, network):
    seen = []
    network.unet.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    picture = v2.functional.to_pil_image(contracts.images(SIZE)[0])
    make()([picture] * 5 + [picture.resize((20, 20))])
    assert seen == [5, 1]
    output = make(p=0.0)([picture, picture])
    assert [image is picture for image in output] == [True, True]


def test_the_network_is_frozen_whatever_the_parent_does(make, network):
    parent = nn.Sequential(make(), nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2)).train()
    parent(contracts.images(SIZE)).sum().backward()
    ready = parent[0].denoiser.ready("cpu")
    assert not any(module.training for module in ready.modules())
    assert all(p.grad is None and not p.requires_grad for p in ready.parameters())
    assert len(list(parent.parameters())) == 2
    assert set(parent.state_dict()) == {"2.weight", "2.bias"}


@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}, {"differentiable": True}, {"checkpointing": True}])
def test_a_network_passed_in_is_not_changed(schedule, options):
    unet = tiny_unet().train()
    state = {name: (value.clone(), value.stride()) for name, value in unet.state_dict().items()}
    denoiser = Denoiser(ScoreNetwork(unet, schedule), **options)
    DiffAug(denoiser)(contracts.images(SIZE))
    for name, value in unet.state_dict().items():
        assert torch.equal(value, state[name][0])
        assert (value.dtype, value.stride()) == (torch.float32, state[name][1])
    assert unet.training
    assert not unet.is_gradient_checkpointing
    assert all(parameter.requires_grad for parameter in unet.parameters())
    assert not any(module._forward_pre_hooks or module._compiled_call_impl for module in unet.modules())


def test_public_attributes_take_effect_after_the_first_image(make):
    transform, batch = make(timesteps=100), contracts.images(SIZE)
    transform(batch)
    transform.timesteps = range(400, 500)
    assert transform.make_params([batch])["timesteps"].min() >= 400
    assert "timesteps=[400, ..., 499]" in repr(transform)
    transform.timesteps = [5000]
    with pytest.raises(ValueError, match="for this network. Got 5000"):
        transform(batch)
    transform.timesteps, transform.p = 100, 0.0
    assert torch.equal(transform(batch), batch)
    transform.p, transform.denoiser.dtype = 1.0, torch.bfloat16
    assert transform.denoiser.ready("cpu").dtype == torch.bfloat16


def test_two_uses_share_one_denoiser(network):
    denoiser = Denoiser(network, dtype=torch.float32)
    first, second = DiffAug(denoiser), DiffAug(denoiser, timesteps=10)
    first(contracts.images(SIZE))
    ready = denoiser.ready("cpu", 16)
    second(contracts.images(SIZE))
    assert denoiser.ready("cpu", 16) is ready
    with pytest.raises(ValueError, match="max_batch, dtype must be given to the Denoiser itself"):
        DiffAug(denoiser, max_batch=3, dtype=torch.float32)


def test_a_second_device_gets_a_copy_of_its_own():
    denoiser = Denoiser("cifar10", dtype=torch.bfloat16)
    first = denoiser.ready("cpu")
    denoiser.dtype = torch.float32
    second = denoiser.ready("cpu")
    assert first is not second
    exact = denoiser.ready("cpu").unet.conv_in.weight
    assert not torch.equal(exact, exact.bfloat16().float())  # loaded anew, not cast back


def test_old_names_warn(make):
    transform = make(max_batch=2)
    with pytest.warns(DeprecationWarning, match="DiffAug.max_batch is now denoiser.max_batch"):
        transform.max_batch = 3
    assert transform.denoiser.max_batch == 3


def test_dtype_follows_the_device(network):
    transform = DiffAug(network)
    transform(contracts.images(SIZE))
    assert transform.denoiser.ready("cpu").dtype == fast_dtype(torch.device("cpu"))


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_the_dtype_suits_the_generation_of_gpus(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_dtype(torch.device("cuda")) == dtype


def test_bfloat16_stays_near_float32(make):
    batch = contracts.images(SIZE)
    params = make(timesteps=100).make_params([batch])
    exact = make(timesteps=100).transform(batch, params)
    assert (make(dtype=torch.bfloat16).transform(batch, params) - exact).abs().mean() < 0.01


def test_gradients_after_a_first_call_in_inference_mode(network):
    transform = DiffAug(network, timesteps=100, differentiable=True, dtype=torch.float64)
    images = contracts.images(SIZE)
    with torch.inference_mode():
        transform(images)
    images = images.clone().requires_grad_()
    transform(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_a_parents_dtype_and_layout_leave_the_network_on_its_device(network):
    transform = DiffAug(network, dtype=torch.float32)
    parent = nn.Sequential(transform).double()
    assert parent(contracts.images(SIZE)).dtype == torch.float32
    parent.to("meta")
    parent.to(memory_format=torch.channels_last).half()
    assert {network.device.type for network in transform.denoiser._ready.values()} == {"meta", "cpu"}
    assert transform.denoiser.ready("meta").dtype == torch.float32


def test_autocast(make):
    batch = contracts.images(SIZE)
    params = make(timesteps=100).make_params([batch])
    with torch.autocast("cpu", torch.bfloat16):
        output = make().transform(batch, params)
    assert torch.equal(output, make().transform(batch, params))


def test_repr_is_one_line(make):
    assert repr(DiffAug("cifar10", timesteps=range(350, 701, 50))) == (
        "DiffAug('cifar10', timesteps=[350, 400, 450, 500, 550, 600, 650, 700], p=1.0)"
    )
    assert repr(make(timesteps=range(1000), p=0.5)) == "DiffAug(<16px ScoreNetwork>, timesteps=[0, ..., 999], p=0.5)"


def test_four_channels(schedule):
    transform = DiffAug(ScoreNetwork(tiny_unet(channels=1), schedule), dtype=torch.float32)
    assert transform(torch.rand(2, 1, SIZE, SIZE)).shape == (2, 1, SIZE, SIZE)
    assert v2.functional.to_pil_image(torch.rand(1, SIZE, SIZE)).mode == "L"
    assert transform(v2.functional.to_pil_image(torch.rand(1, SIZE, SIZE))).mode == "L"


@pytest.mark.parametrize(("differentiable", "layout"), [(False, torch.channels_last), (True, torch.contiguous_format)])
def test_the_layout_on_cpus_suits_gradients(network, differentiable, layout):
    denoiser = Denoiser(network, differentiable=differentiable, dtype=torch.float32)
    assert denoiser.ready("cpu").unet.conv_in.weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(("shape", "parts"), [((100, 16, 16), {100}), ((600, 16, 16), {200}), ((3, 300, 300), {1})])
def test_batches_on_cpus_fit_the_cache(oracle, schedule, shape, parts):
    sizes = []
    network = ScoreNetwork(oracle, schedule)
    handle = oracle.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    images = torch.rand(shape[0], 3, *shape[1:])
    DiffAug(network, dtype=torch.float32).denoise(images, torch.full(shape[:1], 9), torch.zeros_like(images))
    handle.remove()
    assert set(sizes) == parts
    assert sum(sizes) == shape[0]


def test_one_copy_for_few_images_and_one_for_many_share_their_weights(network):
    denoiser = Denoiser(network, dtype=torch.bfloat16)
    few, many = denoiser.ready("cpu"), denoiser.ready("cpu", 64)
    assert few is not many
    pairs = zip(few.parameters(), many.parameters(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)


@pytest.mark.parametrize(
    ("dtype", "size", "contiguous"),
    [(torch.bfloat16, 16, True), (torch.bfloat16, 32, False), (torch.float32, 16, False)],
)
def test_group_norms_get_contiguous_maps_only_where_that_is_faster(network, dtype, size, contiguous):
    """The same numbers, in the layout whose kernel is fast: bfloat16, on the CPU, under 1,024 pixels, many images."""
    assert VECTORISED_PIXELS == 1024
    norm = Denoiser(network, dtype=dtype).ready("cpu", 16).unet.conv_norm_out
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].is_contiguous()))
    x = torch.randn(4, 32, size, size).to(dtype).contiguous(memory_format=torch.channels_last)
    output = norm(x)
    exact = torch.nn.functional.group_norm(x.float(), norm.num_groups, norm.weight.float(), norm.bias.float())
    torch.testing.assert_close(output.float(), exact, rtol=0.02, atol=0.02)
    assert seen == [contiguous]
