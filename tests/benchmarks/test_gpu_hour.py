"""The hour on a GPU, on a CPU: the form of its records, and that a part which fails does not stop the others."""

from __future__ import annotations

import json
import sys
import time
import warnings

import pytest
import torch
from torch import nn

from benchmarks.gpu_hour import __main__ as gpu_hour
from benchmarks.gpu_hour import adm256, autocast, classifier, embedded, memory, suite, syncs
from benchmarks.gpu_hour.processes import records_of_process
from benchmarks.gpu_hour.report import report
from benchmarks.gpu_hour.settings import Settings
from benchmarks.gpu_hour.timing import ratio_record, time_methods
from benchmarks.harness.ceiling import CALLS, Convolution, convolutions, count_convolutions, operations_of, products
from benchmarks.imagenet_cost import count_operations
from benchmarks.throughput import halve_torso
from tests.pretend_device import PretendedDevices

CPU = torch.device("cpu")
FULL = Settings(torch.device("cuda", 0), "cifar10", rounds=1, tiny=False)


def test_a_part_that_fails_does_not_stop_the_next(run, capsys):
    options = ["--device", "cpu", "--tiny", "--rounds", 1, "--network", "no-such-network"]
    records = run(gpu_hour, *options, "--parts", "ceiling", "syncs")
    assert list(dict.fromkeys(r["part"] for r in records)) == ["syncs", "ceiling"]
    failed, *_ = (r for r in records if r["part"] == "syncs")
    assert failed["metric"] == "failed"
    assert "no-such-network" in failed["error"]
    assert [r["part"] for r in records if r["metric"] == "seconds"] == ["syncs", "ceiling"]
    shares = [r for r in records if r["metric"] == "matmul_share"]
    assert len(shares) == 10  # five shapes, with and without cudnn.benchmark
    assert all(r["tiny"] and r["device"] == "cpu" and r["value"] > 0 for r in shares)
    printed = capsys.readouterr().out
    assert "0 held, 0 not held, 0 not judged, 1 failed." in printed
    assert "Its numbers mean nothing" in printed


@pytest.mark.parametrize("part", [syncs, memory, autocast])
def test_records_of_cheap_parts(part, network_folder):
    records = list(part.measure(Settings(CPU, str(network_folder), rounds=1, tiny=True)))
    assert json.loads(json.dumps(records)) == records
    assert all({"method", "metric", "value", "n"} <= set(r) for r in records)
    aimed = [r for r in records if "held" in r]
    assert aimed
    assert {r["held"] for r in aimed} == {None}  # a CPU is not judged
    if part is syncs:
        assert [r["method"] for r in records] == list(syncs.AIMS)
    if part is autocast:
        assert {r["value"] for r in records if r["metric"] == "changed_values"} == {0}
        assert all(r["value"] == r["at_most"] > 0 for r in aimed if r["metric"] == "kernels")


def test_speed_of_the_classifier():
    records = list(classifier.measure(Settings(CPU, "cifar10", rounds=1, tiny=True)))
    assert [(r["method"], r["metric"]) for r in records] == [
        (classifier.TRAINING, "images_per_second"),
        (classifier.INFERENCE, "images_per_second"),
    ]


def test_images_a_second_are_of_all_calls(network_folder, monkeypatch):
    monkeypatch.setattr(
        embedded, "time_methods", lambda settings, methods, **_: ({name: [2.0] for name in methods}, [])
    )
    records = embedded.measure(Settings(CPU, str(network_folder), rounds=1, tiny=True))
    assert {r["value"] for r in records if r["metric"] == "images_per_second"} == {embedded.CALLS / 2}


def test_syncs_are_torchs_warnings(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)

    def call() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    assert syncs.count_syncs(call, FULL.device) == 3
    assert modes == ["warn", "default"]


def test_no_devices_mix(network_folder):
    settings = Settings(torch.device("cuda", 1), str(network_folder), rounds=1, tiny=True)
    with PretendedDevices():
        network, images = settings.adm256(), torch.rand(1, 3, 32, 32, device=settings.device)
        methods = adm256.eager_methods(network, images)
        del methods[adm256.AUTHORS]  # autocast has no effect on pretended devices
        for name, call in {**methods, **syncs.calls(settings)}.items():
            answer = call()
            assert getattr(answer, "device", settings.device) == settings.device, name


def test_a_method_that_fails_is_left_out():
    settings = Settings(CPU, "cifar10", rounds=2, tiny=False)
    methods = {"a": lambda: time.sleep(0.001), "b": lambda: time.sleep(0.1)}
    broken = {"broken": lambda: torch.zeros(2) @ torch.zeros(3)}
    taken, failures = time_methods(settings, {**methods, **broken}, batch_size=8)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 2, "b": 2}
    assert [(r["method"], r["metric"], r["batch_size"]) for r in failures] == [("broken", "failed", 8)]
    (made,) = ratio_record(FULL, {"a": [0.02] * 2, "b": [0.5] * 2}, "b", "a", at_most=30)
    assert (made["method"], made["value"], made["held"]) == ("b over a", pytest.approx(25), True)
    assert ratio_record(FULL, taken, "broken", "a", at_most=1) == []


def test_processes_that_hang_or_die():
    line = '{"method": "a", "metric": "b", "value": 1}'
    code = f"import time; print('a word'); print('{line}', flush=True); "
    start = time.monotonic()
    first, late = records_of_process([sys.executable, "-c", code + "time.sleep(60)"], seconds=2)
    assert time.monotonic() - start < 30
    assert first == json.loads(line)
    assert (late["metric"], late["error"]) == ("failed", "stopped after 2 seconds")
    _, died = records_of_process([sys.executable, "-c", code + "raise SystemExit(3)"], seconds=60)
    assert died["error"] == "the process ended with code 3"
    last = line.replace('"b"', '"seconds"')
    done = records_of_process([sys.executable, "-c", f"print('{line}'); print('{last}')"], seconds=60)
    assert [record["metric"] for record in done] == ["b", "seconds"]


def test_what_held_is_said():
    made = [
        FULL.record("DiffAug", "syncs", 0, at_most=0),
        FULL.record("ensemble", "largest_batch", 16, at_least=32),
        FULL.record("DiffAug", "images_per_second", 7, batch_size=2),
        FULL.failed("compiled", MemoryError("too large\nand more")),
    ]
    assert [r.get("held") for r in made] == [True, False, None, None]
    common = {"benchmark": "gpu_hour", "part": "a", "device": "cuda:0", "tiny": False}
    assert report([{**common, **record} for record in made]).splitlines() == [
        "",
        "held        a: DiffAug: syncs 0; aim: at most 0",
        "NOT HELD    a: ensemble: largest_batch 16; aim: at least 32",
        "failed      a: compiled: MemoryError: too large",
        "",
        "1 held, 1 not held, 0 not judged, 1 failed.",
    ]


def test_pytests_last_line():
    records = suite.records_of(FULL, "..F\n=== 1 failed, 97 passed, 2 skipped, 1 error in 8.31s ===\n")
    assert {r["metric"]: (r["value"], r.get("held")) for r in records} == {
        "tests_passed": (97, None),
        "tests_failed": (1, False),
        "tests_errors": (1, False),
        "tests_skipped": (2, None),
    }
    with pytest.raises(RuntimeError, match="pytest ran no test: no tests ran in 0.01s"):
        suite.records_of(FULL, "no tests ran in 0.01s")


@pytest.mark.parametrize("shape", [Convolution(4, 8, 3, 1, 1, 16), Convolution(3, 5, 3, 2, 1, 15), (6, 2, 1, 1, 0, 7)])
def test_operations_are_torchs(shape):
    shape = Convolution(*shape)
    conv = nn.Conv2d(shape.inputs, shape.outputs, shape.kernel, shape.stride, shape.padding, device="meta")
    images = torch.empty(1, shape.inputs, shape.side, shape.side, device="meta")
    assert operations_of(shape) == count_operations(lambda: conv(images))
    assert count_convolutions(nn.Sequential(conv), lambda: conv(images)) == {shape: operations_of(shape)}
    work = convolutions(shape, 2, torch.float32, CPU)
    assert work.operations == count_operations(work.run) == 2 * CALLS["cpu"] * operations_of(shape)


def test_products_are_several_calls():
    work = products(8, torch.float32, CPU)
    assert work.operations == count_operations(work.run) == CALLS["cpu"] * 2 * 8**3
    assert work.speed([1.0, 2.0, 9.0]) == work.operations / 2


def test_the_authors_way_halves_the_torso_only():
    unet = Settings(CPU, "cifar10", rounds=1, tiny=True).adm256().unet
    halve_torso(unet, torch.float16)
    half = {name.partition(".")[0] for name, p in unet.named_parameters() if p.dtype == torch.float16}
    assert half == {"conv_in", "down_blocks", "mid_block", "up_blocks"}
    assert all(p.dtype == torch.float32 for name, p in unet.named_parameters() if "norm" in name or "time_emb" in name)
    with torch.autocast("cpu", torch.float16):
        assert unet(torch.zeros(1, 3, 32, 32), torch.zeros(1)).sample.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"), [([], "add --tiny"), (["--tiny", "--parts", "speed"], "invalid choice")]
)
def test_refused(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "--device", "cpu", *options])
    with pytest.raises(SystemExit):
        gpu_hour.parse_arguments()
    assert message in capsys.readouterr().err
