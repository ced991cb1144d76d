"""Every page says what the results say, which holds most tables; the rest by hand."""

from __future__ import annotations

import sys
from itertools import product

from benchmarks.harness.tables import frame, gains, in_order, over_seeds, table, with_gains
from benchmarks.tables import __main__ as tables
from benchmarks.tables import adaptation, noise, ood, photos, which
from diffaug_transforms.robustness import CORRUPTIONS
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.score.timesteps import match_timesteps


def test_every_table_is_what_the_results_say(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "--check"])
    assert tables.main() == 0
    assert capsys.readouterr().out == "\n"


def test_a_stale_table_is_rewritten(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table psnr -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "pages", lambda: [page])
    monkeypatch.setattr(sys, "argv", ["", "--check"])
    assert (tables.main(), "old" in page.read_text()) == (1, True)
    monkeypatch.setattr(sys, "argv", [""])
    assert tables.main() == 0
    assert page.read_text() == f"before\n<!-- table psnr -->\n{tables.TABLES['psnr']()}<!-- end -->\nafter\n"


def seeded(values: dict[tuple[str, int], float], **fields: object) -> list[dict[str, object]]:
    return [{**fields, "recipe": recipe, "seed": seed, "value": value} for (recipe, seed), value in values.items()]


def test_means_over_seeds_and_gains_by_hand():
    values = {("baseline", 0): 60.0, ("baseline", 1): 70.0, ("diffaug", 0): 66.0, ("diffaug", 1): 74.0}
    records = frame([*seeded(values, part="a"), *seeded(values, part="b")])
    # Means 60 and 70 of standard deviation sqrt(50): 65 +- 5.
    assert over_seeds(records[records.recipe == "baseline"]) == "65.0 ± 5.0"
    assert over_seeds(records[:1]) == "60.0"
    # Gains of 6 and 4: a mean of 5, a standard deviation of sqrt(2), a standard error of 1.
    paired = gains(records, "seed", "part")
    assert table(paired, ["recipe"], "part").splitlines()[2] == "| baseline to diffaug | +5.0 ± 1.0 | +5.0 ± 1.0 |"
    assert list(with_gains(records, "seed", "part").recipe.unique()) == ["baseline", "diffaug", "baseline to diffaug"]
    assert list(in_order(records, seed=[1, 0], part=["b"]).value) == [70.0, 74.0, 60.0, 66.0]


def test_a_missing_cell_is_empty():
    records = frame([{"a": "x", "b": 1, "seed": 0, "value": 2.0}, {"a": "y", "b": 2.5, "seed": 0, "value": 3.0}])
    assert (
        table(records, ["a"], "b", across=[2.5, 1])
        == "| a | 2.5 | 1 |\n| --- | --- | --- |\n| x |  | 2.0 |\n| y | 3.0 |  |\n"
    )


def test_mce_in_the_shift_table():
    """Errors of 0.4 over the baseline's 0.8 in all 75 parts."""
    modes, recipes = (("default", ""), ("de", "network")), (("baseline", 20.0), ("augmix", 60.0))
    records = [
        {"model": "m", "metric": "accuracy", "n": 10, "seed": 0, "mode": mode, "timesteps": timesteps}
        | {"recipe": recipe, "value": value, "corruption": corruption, "severity": severity}
        for (mode, timesteps), (recipe, value) in product(modes, recipes)
        for corruption, severity in product(CORRUPTIONS, range(1, 6))
    ]
    found = adaptation.shift_table(frame(records), baseline="baseline")
    assert "mCE, Default | mCE, DE |" in found
    assert "| augmix | 1 | network | 60.0 | 60.0 | 50.0 | 50.0 |" in found


def test_tiny_imagenets_timesteps_are_the_papers_matched_to_128_pixels():
    halfway = match_timesteps(range(0, 451, 50), NoiseSchedule.named("linear"), 128)
    assert adaptation.TINY_IMAGENET_TIMESTEPS[",".join(map(str, halfway))] == "halfway"


def test_the_detailed_table_by_hand():
    """Clean 50, noise 30, all others 10: DE adds 6 everywhere and takes 9 calls, anytime DE 2 and 4."""
    value = {"clean": 50.0, "gaussian_noise": 30.0, "shot_noise": 30.0, "impulse_noise": 30.0}
    records = []
    for mode, timesteps, gain, calls in (("anytime", "network", 2, 4), ("default", "", 0, 0), ("de", "a", 6, 9)):
        own = {"model": "m", "recipe": "diffaug", "seed": 0, "n": 100, "mode": mode, "timesteps": timesteps}
        for corruption in ("clean", *CORRUPTIONS):
            here = {**own, "corruption": corruption, "severity": 5}
            accuracy = value.get(corruption, 10.0) + gain
            records.append({**here, "metric": "accuracy", "value": accuracy, "standard_error": 5.0})
            records.append({**here, "metric": "network_calls", "value": calls})
        here = {**own, "corruption": "all", "severity": 0}
        records.append({**here, "metric": "accuracy", "value": 14.0 + gain, "standard_error": 2.0})
        if mode != "default":
            records.append({**here, "metric": "gain", "value": gain, "standard_error": 1.0})
    assert adaptation.detailed_table(frame(records), {"network": "matched"}).splitlines() == [
        "100 images of each part, the same in every column. Gain: of all corruptions, over Default.",
        "",
        "| classifier | mode | timesteps | clean | corrupted | gain | noise | blur | weather | digital | calls |",
        f"|{' --- |' * 11}",
        "| m | Default |  | 50.0 ± 5.0 | 14.0 ± 2.0 |  | 30.0 | 10.0 | 10.0 | 10.0 | 0.0 |",
        "| m | DE | a | 56.0 ± 5.0 | 20.0 ± 2.0 | 6.0 ± 1.0 | 36.0 | 16.0 | 16.0 | 16.0 | 9.0 |",
        "| m | anytime DE | matched | 52.0 ± 5.0 | 16.0 ± 2.0 | 2.0 ± 1.0 | 32.0 | 12.0 | 12.0 | 12.0 | 4.0 |",
    ]


def photo_records(monkeypatch):
    """Two classifiers, a and b. DE loses 10 on clean photos and gains 2 or 4 elsewhere, in 9 calls or 8 anytime."""
    records = []
    for model, (mode, calls) in product("ba", (("de", 9), ("default", 0), ("anytime", 8), ("view", 0))):
        own = {"model": model, "recipe": "baseline", "seed": 0, "n": 200, "mode": mode}
        own |= {"timesteps": "" if mode == "default" else "network", "timestep": 50}
        for corruption in ("clean", *CORRUPTIONS, "all"):
            gain = 0 if mode == "default" else -10 if corruption == "clean" else 2 if model == "a" else 4
            here = {**own, "corruption": corruption, "severity": 5 * (corruption not in ("clean", "all"))}
            value = (80.0 if corruption == "clean" else 20.0) + gain
            records.append({**here, "metric": "accuracy", "value": value, "standard_error": 3.0})
            if mode in ("de", "anytime"):
                error = 1.0 if model == "a" else 2.0
                records.append({**here, "metric": "gain", "value": gain, "standard_error": error})
            if corruption != "all":
                records.append({**here, "metric": "network_calls", "value": 1 if corruption == "clean" else calls})
    monkeypatch.setattr(photos, "frame", lambda run: frame(records))


def test_photos_by_mode(monkeypatch):
    """The calls are those of corrupted photos; anytime DE has a column and no line."""
    photo_records(monkeypatch)
    note, _, header, _, *lines = photos.accuracy_and_calls("any").splitlines()
    assert note == "200 photos under each corruption, the same in every cell. ± is over photos."
    columns = "corrupted | gain | clean | clean, gain | calls | calls, anytime"
    assert header == f"| severity | classifier | mode | S | {columns} |"
    assert lines == [
        "| 5 | a | Default |  | 20.0 ± 3.0 |  | 80.0 ± 3.0 |  | 0.0 |  |",
        "| 5 | a | DE | paper's | 22.0 ± 3.0 | +2.0 ± 1.0 | 70.0 ± 3.0 | -10.0 ± 1.0 | 9.0 | 8.0 |",
        "| 5 | b | Default |  | 20.0 ± 3.0 |  | 80.0 ± 3.0 |  | 0.0 |  |",
        "| 5 | b | DE | paper's | 24.0 ± 3.0 | +4.0 ± 2.0 | 70.0 ± 3.0 | -10.0 ± 2.0 | 9.0 | 8.0 |",
    ]


def test_photos_by_kind_and_over_t(monkeypatch):
    """Means over both classifiers, with the mean of their errors."""
    photo_records(monkeypatch)
    *_, header, _, clean, noise, _, _, digital = photos.gains("kind", "any").splitlines()
    assert header == "| severity | kind | Default | DE, paper's |"
    assert clean == "| 5 | clean | 80.0 | 70.0 (-10.0 ± 1.5) |"
    assert (noise, digital) == tuple(f"| 5 | {kind} | 20.0 | 23.0 (+3.0 ± 1.5) |" for kind in ("noise", "digital"))
    assert photos.gains("corruption", "any").splitlines()[5] == "| 5 | gaussian_noise | 20.0 | 23.0 (+3.0 ± 1.5) |"
    cells = " | ".join(["70.0 ± 3.0", *["23.0 ± 3.0"] * 4])
    assert photos.over_t("any").splitlines()[2:] == [
        "| severity | t | clean | noise | blur | weather | digital |",
        f"|{' --- |' * 7}",
        f"| 5 | 50 | {cells} |",
    ]


def judged(model: str, seed: int, mode: str, gain: float, calls: float, timesteps: str = "") -> list[dict[str, object]]:
    """Records of covariate_shift for clean images, noise, and the mean over the corruptions: 80, 20 and 40 alone."""
    own = {"model": model, "recipe": "baseline", "seed": seed, "n": 100, "mode": mode, "timesteps": timesteps}
    records: list[dict[str, object]] = []
    for corruption, alone in {"clean": 80.0, "gaussian_noise": 20.0, "all": 40.0}.items():
        here = {**own, "corruption": corruption, "severity": 5}
        change = 0.0 if corruption == "clean" else gain
        records.append({**here, "metric": "accuracy", "value": alone + change, "standard_error": 5.0})
        if corruption != "all":
            records.append({**here, "metric": "network_calls", "value": 0.0 if corruption == "clean" else calls})
        if mode != "default":
            records.append({**here, "metric": "gain", "value": change, "standard_error": 1.0 + seed})
    return records


def test_purifys_table_by_hand():
    """Gains of 6 and 8 over two seeds: 7, with a standard deviation of sqrt(2). One seed has the error over images."""
    parts = [("default", 0, 0, 0), ("purify", 0, 6, 1), ("purify", 1, 8, 0.5), ("default", 1, 0, 0)]
    records = frame([record for mode, seed, gain, calls in parts for record in judged("m", seed, mode, gain, calls)])
    records = records.iloc[::-1]
    assert noise.purify(records).splitlines()[:1] == [
        "| corruption | calls an image | baseline, default | baseline, purify |"
    ]
    lines = set(noise.purify(records).splitlines()[2:])
    assert lines == {
        "| clean | 0.00 | 80.0 | 80.0 (+0.0 ± 0.0) |",
        "| gaussian_noise | 0.75 | 20.0 | 27.0 (+7.0 ± 1.0) |",
    }
    single = noise.purify(records[records.seed == 1]).splitlines()
    assert "| gaussian_noise | 0.50 | 20.0 | 28.0 (+8.0 ± 2.0) |" in single


def test_which_by_hand():
    """Two models on the same images: the mean of their gains, 2 and 4, with the mean of their errors, 1 and 1."""
    modes = [("default", 0, 0, ""), ("de", 0, 3, "0,25"), ("de", 2, 9, "network")]
    models = [("a", 0), ("b", 2)]
    records = [
        record
        for model, more in models
        for mode, gain, calls, timesteps in modes
        for record in judged(model, 0, mode, gain + more * bool(gain), calls, timesteps)
    ]
    found = which.methods(frame(records))
    assert table(found, ["method", "calls"], "part", which.value_and_error, across=which.PARTS).splitlines()[2:] == [
        "| alone | 0 | 80.0 ± 5.0 | 20.0 ± 5.0 |  |  |  | 40.0 ± 5.0 |",
        "| DE at t = 0, 25 | 3 | +0.0 ± 1.0 | +0.0 ± 1.0 |  |  |  | +0.0 ± 1.0 |",
        "| DE | 9 | +0.0 ± 1.0 | +3.0 ± 1.0 |  |  |  | +3.0 ± 1.0 |",
    ]


def test_the_gain_of_training_is_paired_by_seed():
    """From 20 and 30 to 26 and 38: gains of 6 and 8 have a mean of 7 and a standard error of 1."""
    without = frame([*judged("m", 0, "default", 0, 0), *judged("m", 1, "default", 10, 0)])
    trained = frame([*judged("m", 1, "default", 18, 0), *judged("m", 0, "default", 6, 0)])
    found = which.training_gain(without, trained, "DiffAug")
    assert set(found.method) == {"DiffAug in training"}
    line = table(found, ["calls"], "part", which.value_and_error, across=["clean", "noise", "all 15"]).splitlines()[2]
    assert line == "| 0 | +0.0 ± 0.0 | +7.0 ± 1.0 | +7.0 ± 1.0 |"


def test_the_table_of_dda_has_the_recipes_order():
    records = [
        {**record, "recipe": recipe}
        for recipe in ("diffaug", "baseline")
        for mode, gain, calls in (("dda-se", 3, 50), ("default", 0, 0))
        for record in judged("m", 0, mode, gain, calls, "network" if gain else "")
    ]
    assert adaptation.cifar10_dda(frame(records)).splitlines()[2:] == [
        "| classifier | mode | timesteps | clean | corrupted | gain | noise | blur | weather | digital | calls |",
        f"|{' --- |' * 11}",
        *(
            f"| {recipe} | {line} |"
            for recipe in ("baseline", "diffaug")
            for line in (
                "Default |  | 80.0 ± 5.0 | 40.0 ± 5.0 |  | 20.0 ± 5.0 |  |  |  | 0.0",
                "DDA-SE | matched | 80.0 ± 5.0 | 43.0 ± 5.0 | 3.0 ± 1.0 | 23.0 ± 5.0 |  |  |  | 50.0",
            )
        ),
    ]


def test_purify_is_held_against_dda_by_seed():
    """Gains of 5 and 7 against 3 and 3: 2 and 4 have a mean of 3 and a standard error of 1."""
    found = [("dda-se", 0, 3), ("dda-se", 1, 3), ("purify", 1, 7), ("purify", 0, 5)]
    records = [record for mode, seed, gain in found for record in judged("m", seed, mode, gain, 13)]
    assert adaptation.purify_or_dda(frame(records)).splitlines() == [
        "| trained with | clean | corrupted | noise | blur | weather | digital |",
        f"|{' --- |' * 7}",
        "| baseline | +0.0 ± 0.0 | +3.0 ± 1.0 | +3.0 ± 1.0 |  |  |  |",
    ]


def test_openoods_table():
    """Far is the mean over its sets without noise; ASH is ASH-B. Seeds 0 and 1 differ by 2, so the error is 1."""
    places = {"tin": ("near", 70.0), "textures": ("far", 80.0), "fashion-mnist": ("far", 90.0)}
    places |= {"gaussian noise": ("far", 10.0)}
    records = [
        {"model": "m", "recipe": recipe, "seed": seed, "dataset": name, "distance": distance, "method": method}
        | {"metric": metric, "value": value + gain + 2 * seed - 50 * (metric == "fpr95"), "n": 5, "n_id": 1000}
        for recipe, gain in (("baseline", 0), ("diffaug", 3))
        for seed in (0, 1)
        for name, (distance, value) in places.items()
        for method in ("msp", "ash-s", "ash-b")
        for metric in ("auroc", "fpr95", "aupr")
    ]
    note, _, header, _, *lines = ood.openood(frame(records)).splitlines()
    assert "over 2 seeds. Images out of distribution / in it: tin 5 / 1,000, textures 5 / 1,000, fashion-mnist" in note
    assert header == "| method | classifier | near, AUROC | near, FPR95 | far, AUROC | far, FPR95 |"
    assert lines == [
        f"| {method} | {row} |"
        for method in ("MSP", "ASH")
        for row in (
            "baseline | 71.0 ± 1.0 | 21.0 ± 1.0 | 86.0 ± 1.0 | 36.0 ± 1.0",
            "diffaug | 74.0 ± 1.0 | 24.0 ± 1.0 | 89.0 ± 1.0 | 39.0 ± 1.0",
            "baseline to diffaug | +3.0 ± 0.0 | +3.0 ± 0.0 | +3.0 ± 0.0 | +3.0 ± 0.0",
        )
    ]
