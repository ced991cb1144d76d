"""Copies cannot go stale: a folder knows the options that its copies were made with."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from torchvision.transforms import v2

from diffaug_transforms import DiffAug, ScoreNetwork, cli
from diffaug_transforms.offline import ResizeAndCrop, augment_folder
from diffaug_transforms.offline.record import RECORD, describe_prepare, describe_timesteps
from diffaug_transforms.transforms import DeepAugment
from tests.conftest import tiny_unet
from tests.offline.conftest import files, save_picture


@pytest.fixture
def augment(photos, saved, tmp_path, capsys):
    """`diffaug augment` into one folder: the exit code and standard error."""

    def run(*options: str, source: Path = photos, target: str = "out") -> tuple[int, str]:
        network = () if "--with" in options or "--network" in options else ("--network", saved, "--timesteps", "100")
        code = cli.main(["augment", str(source), str(tmp_path / target), *network, *options])
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "7"], "seed was 0, is 7. Choose another folder, or make all copies anew with --overwrite"),
        (["--timesteps", "50,100"], "timesteps was '100', is '50,100'"),
        (["--copies", "2"], "copies was 1, is 2"),
        (["--resize", "16", "--crop", "8"], "resize was None, is 16; crop was None, is 8"),
        (["--with", "deepaugment"], "with was 'diffaug', is 'deepaugment'"),
    ],
)
def test_other_options_are_refused_and_named(augment, tmp_path, options, message):
    assert augment()[0] == 0
    before = files(tmp_path / "out")
    code, error = augment(*options)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert files(tmp_path / "out") == before


def test_another_network_is_seen_by_its_weights(augment, schedule, tmp_path):
    assert augment()[0] == 0
    shutil.copytree(tmp_path / "network", tmp_path / "same")
    assert augment("--network", str(tmp_path / "same"), "--timesteps", "100")[0] == 0
    ScoreNetwork(tiny_unet(seed=1), schedule).save_pretrained(tmp_path / "network")
    code, error = augment()
    assert code == 2
    assert f"network was '{tmp_path / 'network'}' (" in error
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["network"]["sha256"][:8] in error
    # A network that was used already, and is in another dtype now, has the same checksum.
    denoiser = DiffAug(str(tmp_path / "network"), timesteps=100)
    augment_folder(tmp_path / "photos", tmp_path / "first", denoiser)
    assert augment_folder(tmp_path / "photos", tmp_path / "first", denoiser) == []


def test_another_source_is_refused_unless_somebody_vouches_for_it(augment, photos, tmp_path):
    assert augment()[0] == 0
    photos.rename(tmp_path / "moved")
    code, error = augment(source=tmp_path / "moved")
    assert code == 2
    assert "source was" in error
    assert "If the folder was only moved, set source to null in .diffaug.json there" in error
    record = tmp_path / "out" / RECORD
    record.write_text(json.dumps({**json.loads(record.read_text()), "source": None}))
    before = (tmp_path / "out" / "a" / "one.png").stat().st_mtime_ns
    for path in (tmp_path / "moved").rglob("*.png"):
        path.touch()  # copied, not moved
    assert augment(source=tmp_path / "moved")[0] == 0
    assert (tmp_path / "out" / "a" / "one.png").stat().st_mtime_ns == before


def test_a_picture_that_changed_gets_a_new_copy(augment, photos, tmp_path):
    assert augment()[0] == 0
    before = files(tmp_path / "out")
    save_picture(photos / "a" / "one.png", seed=99)
    os.utime(photos / "b" / "three.png", (4e9, 4e9))  # its copy is not made again and again
    assert augment()[0] == 0
    after = files(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"a/one.png"}
    made = (tmp_path / "out" / "b" / "three.png").stat().st_ino
    _, error = augment()
    assert "4 were there already" in error
    assert (tmp_path / "out" / "b" / "three.png").stat().st_ino == made


def test_copies_of_pictures_that_are_gone_are_named(augment, photos, tmp_path):
    assert augment()[1].count("no copy of pictures") == 0
    (photos / "a" / "one.png").unlink()
    code, error = augment()
    assert code == 0
    gone = tmp_path / "out" / "a" / "one.png"
    assert f"1 picture in {tmp_path / 'out'} is no copy of pictures in {photos}, such as {gone}" in error


def test_overwrite_starts_anew(augment, tmp_path):
    assert augment("--copies", "2")[0] == 0
    (tmp_path / "out" / "README.txt").write_text("mine")
    assert augment("--overwrite", "--seed", "5")[0] == 0
    assert set(files(tmp_path / "out")) == {"a/one.png", "a/two.jpg", "b/three.png", "b/deep/four.png", "README.txt"}
    assert augment("--seed", "5")[0] == 0
    assert augment(target="fresh")[0] == 0
    assert files(tmp_path / "fresh")["a/one.png"] != files(tmp_path / "out")["a/one.png"]


def test_a_run_that_fails_at_once_leaves_no_record(augment, photos, tmp_path, network):
    code, error = augment("--timesteps", "5000")
    assert (code, "timesteps must be in 0...999" in error) == (2, True)

    class Fails(DiffAug):
        def transform(self, inpt, params):
            raise OSError("the weights are missing")

    with pytest.raises(OSError, match="the weights are missing"):
        augment_folder(photos, tmp_path / "out", Fails(network, timesteps=5))
    assert not (tmp_path / "out").exists()
    assert augment()[0] == 0


def test_pictures_without_a_record_are_refused(augment, tmp_path):
    save_picture(tmp_path / "out" / "b" / "mine.png")
    save_picture(tmp_path / "out" / "a" / "one.png")
    code, error = augment()
    assert code == 2
    assert "holds pictures, such as" in error
    assert "and no record of their options. Choose another folder, or" in error
    assert augment("--overwrite")[0] == 0
    assert augment(target="fresh")[0] == 0
    made = files(tmp_path / "fresh")
    found = files(tmp_path / "out")
    assert set(found) - set(made) == {"b/mine.png"}  # nobody but its owner removes it
    assert all(found[name] == made[name] for name in made)


def test_other_files_in_the_destination_do_no_harm(augment, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    (tmp_path / "out" / ".DS_Store").touch()
    assert augment()[0] == 0


@pytest.mark.parametrize("content", ["", '{"seed": 0', "[1]"])
def test_a_damaged_record_is_an_error(augment, tmp_path, content):
    assert augment()[0] == 0
    (tmp_path / "out" / RECORD).write_text(content)
    code, error = augment()
    assert code == 2
    assert f"{RECORD} " in error
    assert "--overwrite" in error
    assert augment("--overwrite")[0] == 0


def test_what_counts_as_done(augment, tmp_path):
    """Empty files and folders at a copy's name do not, and unfinished files of dead processes are removed."""
    assert augment()[0] == 0
    out = tmp_path / "out"
    whole = files(out)
    (out / "a" / "one.png").write_bytes(b"")
    (out / "b" / "three.png").unlink()
    (out / "b" / "three.png").mkdir()
    code, error = augment()
    assert code == 1
    assert f"skipped: {out / 'b' / 'three.png'} cannot be written: it is no file, but has the name of one" in error
    (out / "b" / "three.png").rmdir()
    code, error = augment()
    assert code == 0
    assert "3 were there already" in error
    assert files(out) == whole


def test_two_runs_at_once_with_different_options(photos, network, tmp_path):
    """One of them is refused; the folder holds the copies of the other alone."""
    transforms = [DiffAug(network, timesteps=t) for t in (50, 600)]
    for augment in transforms:
        augment.network  # noqa: B018
    errors: list[str] = []
    barrier = threading.Barrier(2)

    def run(augment: DiffAug) -> None:
        barrier.wait()
        try:
            augment_folder(photos, tmp_path / "out", augment)
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run, args=(augment,)) for augment in transforms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert "timesteps was" in errors[0]
    steps = json.loads((tmp_path / "out" / RECORD).read_text())["timesteps"]
    augment_folder(photos, tmp_path / "alone", DiffAug(network, timesteps=int(steps)))
    assert files(tmp_path / "out") == files(tmp_path / "alone")


def test_plain_values_of_options():
    assert describe_timesteps(range(350, 701, 50)) == "350:750:50"
    assert [*range(350, 750, 50)] == [*range(350, 701, 50)]
    assert describe_timesteps([500]) == "500"
    assert describe_timesteps([5, 5, 5]) == "5,5,5"
    assert describe_timesteps([3, 9, 16]) == "3,9,16"
    assert describe_timesteps([9, 6, 3]) == "9:0:-3"
    assert describe_prepare(None) == describe_prepare(ResizeAndCrop()) == {"resize": None, "crop": None}
    assert describe_prepare(ResizeAndCrop(9, 8)) == {"resize": 9, "crop": 8}
    one, two = (describe_prepare(v2.Compose([v2.Resize(size)])) for size in (8, 9))
    assert one != two
    assert one == describe_prepare(v2.Compose([v2.Resize(8)]))
    assert describe_prepare(save_picture) == {"prepare": "save_picture"}


def test_weights_of_deepaugment_are_in_the_record(photos, tmp_path):
    """By checksum: another file of the same name is seen. A stand-in computes nothing."""

    class Nothing(DeepAugment):
        def transform(self, inpt, params):
            return inpt

    weights = tmp_path / "cae.pt"
    weights.write_bytes(b"one")
    transform = Nothing("cae", weights=weights)
    assert augment_folder(photos, tmp_path / "out", transform) == []
    weights.write_bytes(b"two")
    with pytest.raises(ValueError, match="weights was '7692.*, is '3fc4"):
        augment_folder(photos, tmp_path / "out", transform)
    with pytest.raises(ValueError, match=r"redraw was 1.0, is 0.5"):
        augment_folder(photos, tmp_path / "out", transform, redraw=0.5)
