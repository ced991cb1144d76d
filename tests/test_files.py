"""Files that others wrote: damaged ones give errors that name them, and values are checked before they are used."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffaug_transforms.app.pictures import read_picture
from diffaug_transforms.classifiers import (
    NormalizedClassifier,
    build_model,
    load_classifier,
    load_weights,
    save_classifier,
)
from diffaug_transforms.files import (
    add_checksum,
    boolean,
    check_entries,
    integer,
    number,
    one_of,
    optional,
    read_json,
    read_tensors,
    remove_part,
    several,
    write_whole,
    writing,
    writing_file,
)
from diffaug_transforms.pictures import MAX_SIDE, load_image


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or incomplete"),
        (b'{"a": 1', "is damaged or incomplete"),
        (b"\xff\xfe{", "is damaged or incomplete"),
        (b"[" * 100_000, "is damaged or incomplete"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is damaged or incomplete"),
        (b"[1, 2]", r"must hold a JSON object. Got \[1, 2\]"),
    ],
)
def test_damaged_json_names_the_file(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(OSError, match=rf"config\.json {message}"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (integer(1, 5), [1, 5], [0, 6, 2.0, True, "3", None, [1]]),
        (number(0, 1), [0, 0.5, 1], [-0.1, float("nan"), float("inf"), "0", False]),
        (one_of("a", None), ["a", None], ["b", 0, ["a"], {}]),
        (one_of(False), [False], [True, 0, None]),
        (boolean(), [True, False], [0, 1, None]),
        (several(integer(1, 5), 2), [[1], (1, 5)], [[], [1, 2, 3], [6], 1, "12"]),
        (optional(integer(1, 5)), [None, 3], [0]),
    ],
)
def test_rules(rule, right, wrong):
    for value in right:
        check_entries({"key": value}, {"key": rule}, "file.json")
    for value in wrong:
        with pytest.raises(ValueError, match="file.json: key must be .* Got "):
            check_entries({"key": value}, {"key": rule}, "file.json")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, value):
    state = {"first": torch.ones(3), "second.bias": torch.tensor([1.0, value])}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    with pytest.raises(OSError, match=f"{name} is damaged: second.bias has values that are NaN or infinite"):
        read_tensors(tmp_path / name)


def test_truncated_tensors_give_one_kind_of_error(tmp_path):
    state = {"a": torch.ones(40), "b": torch.ones(3, 3)}
    save_file(state, tmp_path / "whole.safetensors")
    torch.save(state, tmp_path / "whole.pt")
    for ending in ("safetensors", "pt"):
        whole = (tmp_path / f"whole.{ending}").read_bytes()
        for length in range(0, len(whole), 61):
            (tmp_path / f"cut.{ending}").write_bytes(whole[:length])
            with pytest.raises(OSError, match=rf"cut\.{ending} is damaged"):
                read_tensors(tmp_path / f"cut.{ending}")


def test_a_changed_byte_is_seen_by_the_checksum(tmp_path):
    path = tmp_path / "model.safetensors"
    classifier_folder(tmp_path)
    add_checksum(path)
    load_classifier(tmp_path)
    whole = path.read_bytes()
    state = read_tensors(path)
    start = len(whole) - sum(tensor.nbytes for tensor in load_file(path).values())
    for place in range(start, len(whole), 997):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        for load in (read_tensors, lambda path: load_classifier(path.parent)):
            with pytest.raises(OSError, match=r"model\.safetensors is damaged.*checksum"):
                load(path)
    save_file(state, path)  # other tools write no checksum, and nothing is checked
    assert set(read_tensors(path)) == set(state)


def test_a_changed_byte_is_seen_by_the_checksums_of_a_zip(tmp_path):
    torch.save({"a": torch.rand(40)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    place = whole.index(read_tensors(tmp_path / "whole.pt")["a"].numpy().tobytes())
    for offset in range(0, 160, 7):
        changed = bytearray(whole)
        changed[place + offset] ^= 1
        (tmp_path / "changed.pt").write_bytes(changed)
        with pytest.raises(OSError, match=r"changed\.pt is damaged.*the checksum of .* is wrong"):
            read_tensors(tmp_path / "changed.pt")


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def test_a_pickle_does_not_run_and_nobody_is_told_to_run_it(tmp_path):
    torch.save({"a": Evil(str(tmp_path / "it_ran"))}, tmp_path / "evil.pt")
    for load in (read_tensors, lambda path: load_weights(build_model("cifar_resnet-4", 2), path)):
        with pytest.raises(OSError, match=r"evil\.pt is damaged.*Python objects, which are never run") as caught:
            load(tmp_path / "evil.pt")
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "it_ran").exists()


def test_loaded_tensors_do_not_follow_their_file(tmp_path):
    save_file({"a": torch.ones(1000)}, tmp_path / "a.safetensors")
    state = read_tensors(tmp_path / "a.safetensors")
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.write(bytes(4000))
    assert torch.equal(state["a"], torch.ones(1000))


def classifier_folder(folder, **changes):
    model = build_model("cifar_resnet-4", 2)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"name": "cifar_resnet-4", "mean": [0.5] * 3, "std": [0.5] * 3, "classes": ["a", "b"]} | changes
    (folder / "classifier.json").write_text(json.dumps(config))
    return folder


def test_a_folder_is_written_whole_and_through_no_link(tmp_path):
    """A classifier's here; score networks and guidance classifiers are written in the same way."""
    classifier = NormalizedClassifier(build_model("cifar_resnet-4", 2), 0.5, 0.5)
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").symlink_to(kept)
    save_classifier(classifier, tmp_path / "new", "cifar_resnet-4", classes=["a", "b"])
    assert kept.read_text() == "as it was"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["classifier.json", "model.safetensors"]
    load_classifier(tmp_path / "new")
    with pytest.raises(TypeError, match="keys must be str"):
        save_classifier(classifier, tmp_path / "failed", "cifar_resnet-4", classes={("a",): 1})
    assert not list((tmp_path / "failed").iterdir())


def test_weights_that_cannot_be_written_are_an_oserror(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(OSError, match="a cannot be written: No space left"), writing(tmp_path / "a"):
        raise SafetensorError("No space left on device")
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "timm/hf-hub:owner/evil"}, "name must be a torchvision classifier.*Got 'timm/hf-hub:owner/evil'"),
        ({"name": "timm/local-dir:/tmp"}, "Got 'timm/local-dir:/tmp'"),
        ({"name": "cifar_resnet-100000"}, "width of at most 512. Got 'cifar_resnet-100000'"),
        ({"name": ["evil"]}, r"name must be text. Got \['evil'\]"),
        ({"name": "resnet51"}, "torchvision classifier"),
        ({"mean": [0.5, None, 0.5]}, "mean must be a list"),
        ({"std": [0.5, 0.5]}, "std must be one number, or one for each of three channels. Got"),
        ({"std": [0, 0, 0]}, r"std must be a list.*Got \[0, 0, 0\]"),
        ({"classes": []}, r"classes must be a list.*Got \[\]"),
        ({"arguments": {"size": 1e9}}, "size must be an integer"),
    ],
)
def test_a_classifiers_file_chooses_nothing_unsafe(tmp_path, changes, message):
    load_classifier(classifier_folder(tmp_path))
    with pytest.raises(ValueError, match=rf"classifier\.json: {message}|classifier\.json: .*{message}"):
        load_classifier(classifier_folder(tmp_path, **changes))


def test_a_classifiers_damaged_files(tmp_path):
    classifier_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(OSError, match=r"model\.safetensors is damaged or does not fit the model"):
        load_classifier(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "classifier.json").write_text('{"name": "cifar_resnet-4"}')
    with pytest.raises(
        ValueError, match=r"classifier\.json must have the entries.*Missing: \['mean', 'std', 'classes'\]"
    ):
        load_classifier(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(OSError, match=r"list\.pt is damaged or does not fit the model"):
        load_weights(build_model("cifar_resnet-4", 2), tmp_path / "list.pt")


def png(width: int, height: int) -> bytes:
    """A file of a few bytes that declares a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 49_000_000), (49_000_000, 1), (MAX_SIDE + 1, 1)])
def test_a_side_that_a_picture_declares_is_checked_before_its_pixels(tmp_path, size):
    (tmp_path / "long.png").write_bytes(png(*size))
    with pytest.raises(
        OSError, match=rf"long\.png is no whole picture.*at most 32768 pixels. Got {size[0]} x {size[1]}"
    ):
        load_image(tmp_path / "long.png")
    with pytest.raises(ValueError, match=f"sides must have at most 32768 pixels. Got {size[0]} x {size[1]}"):
        read_picture(tmp_path / "long.png")


def test_equal_tensors_give_equal_files(tmp_path):
    """safetensors writes two metadata entries in either order."""
    contents = set()
    for i in range(12):
        path = tmp_path / f"{i}.safetensors"
        save_file({"weight": torch.arange(6.0), "bias": torch.ones(3)}, path)
        add_checksum(path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert torch.equal(read_tensors(path)["weight"], torch.arange(6.0))


@pytest.mark.parametrize("step", range(6))
def test_a_killed_write_never_mixes_old_files_with_new_ones(tmp_path, monkeypatch, step):
    """A crash before each change of the folder."""

    def write(text: str) -> None:
        with writing(tmp_path / "folder") as new:
            (new / "inner").mkdir()
            for name in ("a", "b", "inner/c"):
                (new / name).write_text(text)

    write("old")
    changes = []

    def crash(change):
        def run(*args, **kwargs):
            changes.append(1)
            if len(changes) > step:
                raise KeyboardInterrupt
            return change(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash(Path.unlink))
        patch.setattr(Path, "replace", crash(Path.replace))
        with suppress(KeyboardInterrupt):
            write("new")
    found = {path.name: path.read_text() for path in (tmp_path / "folder").rglob("*") if path.is_file()}
    assert len(changes) == min(step + 1, 5)
    assert len(set(found.values())) == 1 or set(found) != {"a", "b", "c"}
    write("newest")
    assert {(tmp_path / "folder" / name).read_text() for name in ("a", "b", "inner/c")} == {"newest"}


def test_written_files_may_be_read_by_others_as_the_umask_says(tmp_path):
    """safetensors alone makes files that only their owner may read."""
    from safetensors.torch import save_file

    (tmp_path / "usual").touch()
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    add_checksum(tmp_path / "a.safetensors")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_file_is_whole_at_every_moment(tmp_path):
    """After an error the old one is there, and nothing unfinished; writers of one file do not meet."""
    path = tmp_path / "x.json"
    write_whole(path, "one")

    def fail_half_way() -> None:
        with writing_file(path) as part:
            part.write_text("ha")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]
    with writing_file(path) as first, writing_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # it was renamed last
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_several_writers_wins_if_asked(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "no links here")))
    path = tmp_path / "x"
    for content in ("first", "second"):
        with suppress(FileExistsError), writing_file(path, new=True) as part:
            part.write_text(content)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_dead_processes_left_is_removed(tmp_path):
    """A killed process cannot remove its file; one at work, here or on another machine, keeps it for a day."""
    code = "import os, sys, pathlib; from diffaug_transforms.files import writing_file\n"
    code += "with writing_file(pathlib.Path(sys.argv[1])) as part: part.touch(); os.kill(os.getpid(), 9)"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.png")], cwd=root, timeout=100)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".diffaug-")
    assert left.suffix == ".part"
    old, elsewhere = (tmp_path / f".diffaug-00000000-{n}-0.part" for n in (1, 2))
    other = tmp_path / "mine.part"
    for path in (old, elsewhere, other):
        path.touch()
    os.utime(old, (0, 0))
    with writing_file(tmp_path / "y") as mine:
        mine.touch()
        assert [remove_part(path) for path in (left, old, elsewhere, mine, other)] == [True, True, True, True, False]
        assert {path.name for path in tmp_path.iterdir()} == {elsewhere.name, mine.name, other.name}
    assert remove_part(left)  # another process was faster
