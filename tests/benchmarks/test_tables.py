"""Tables by hand, and that every page says what the results say."""

from __future__ import annotations

import sys

from benchmarks.harness.tables import frame, gains, in_order, over_seeds, table, with_gains
from benchmarks.tables import __main__ as tables
from benchmarks.tables import adaptation, certificates
from diffaug_transforms.robustness import CORRUPTIONS


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


def shift_records(values: dict[tuple[str, str, int], float], severity: int = 5) -> list[dict[str, object]]:
    modes = (("default", ""), ("de", "network"), ("de", "paper"))
    common = {"model": "m", "metric": "accuracy", "n": 10}
    return [
        {**common, "recipe": recipe, "seed": seed, "corruption": corruption, "value": value}
        | {"severity": severity if corruption != "clean" else 0, "mode": mode, "timesteps": timesteps}
        for (recipe, corruption, seed), value in values.items()
        for mode, timesteps in modes
    ]


def test_the_shift_table_by_hand():
    values = {("baseline", "fog", 0): 40, ("baseline", "snow", 0): 50, ("baseline", "clean", 0): 80}
    values |= {("baseline", "fog", 1): 44, ("baseline", "snow", 1): 54, ("baseline", "clean", 1): 80}
    lines = adaptation.shift_table(frame(shift_records(values))).splitlines()
    assert lines[0] == "10 images of each of 2 parts, the same in every column."
    assert lines[2] == "| classifier | seeds | timesteps | Default | DE | clean, Default | clean, DE |"
    # Means 45 and 49: a mean of 47, a standard deviation of sqrt(8), a standard error of 2.
    assert lines[4] == "| m | 2 | network | 47.0 ± 2.0 | 47.0 ± 2.0 | 80.0 ± 0.0 | 80.0 ± 0.0 |"
    assert lines[5].startswith("| m | 2 | paper | 47.0 ± 2.0 |")


def test_mce_in_the_shift_table():
    records = []
    for severity in range(1, 6):
        for recipe, value in (("baseline", 20.0), ("augmix", 60.0)):
            records += shift_records({(recipe, corruption, 0): value for corruption in CORRUPTIONS}, severity)
    found = adaptation.shift_table(frame(records), baseline="baseline")
    assert "mCE, Default | mCE, DE |" in found
    assert "| augmix | 1 | network | 60.0 | 60.0 | 50.0 | 50.0 |" in found  # errors 0.4 over 0.8


def certificate(recipe: str, seed: int, image: int, sigma: float, radius: float, prediction: int = 1) -> dict:
    named = {"recipe": recipe, "seed": seed, "image": image, "sigma": sigma}
    return {**named, "label": 1, "prediction": prediction, "value": radius, "draws": 10, "failure_probability": 0.1}


def test_certified_accuracy_takes_the_best_sigma_at_each_radius():
    """Two images: sigma 0.25 certifies both at 0.5 with DiffAug, one without; sigma 1 one, at 2."""
    records = []
    for seed in (0, 1):
        for recipe, first, second in (("baseline", 0.6, 0.4), ("diffaug", 0.6, 0.5)):
            records += [certificate(recipe, seed, image, 0.25, r) for image, r in ((7, first), (8, second))]
            records += [certificate(recipe, seed, 7, 1.0, 2.0), certificate(recipe, seed, 8, 1.0, 0.0, prediction=-1)]
    lines = certificates.certify(frame(records)).splitlines()
    assert "2 test images" in lines[0]
    assert lines[4].startswith("| baseline | 50.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | 0.0 ± 0.0 |")
    assert lines[5].startswith("| diffaug | 100.0 ± 0.0 | 50.0 ± 0.0 |")
    # Paired over images: one gains 100, the other 0.
    assert lines[6].startswith("| baseline to diffaug | +50.0 ± 50.0 | +0.0 ± 0.0 |")


def test_wrong_and_abstaining_certificates_never_count():
    records = [certificate("baseline", 0, 1, 0.5, 9.0, prediction=2), certificate("baseline", 0, 2, 0.5, 0.0, -1)]
    expected = "| 0.5 | baseline | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 50.0 |"
    assert expected in certificates.certify_sigmas(frame(records))
