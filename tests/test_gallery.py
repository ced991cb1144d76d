"""The gallery notebooks as they are committed: short, run, and readable without running."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MOST_LINES = 40
MOST_BYTES = 300_000


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["cells"]


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path) if cell["cell_type"] == "code"]


def lines_of_code(cell: dict[str, Any]) -> list[str]:
    stripped = (line.strip() for line in "".join(cell["source"]).splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in code_cells(path) for output in cell["outputs"]]


def test_the_notebooks_are_numbered():
    assert [int(path.name.partition("_")[0]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_it_is_short(self, path: Path):
        assert sum(len(lines_of_code(cell)) for cell in code_cells(path)) <= MOST_LINES
        assert path.stat().st_size <= MOST_BYTES

    def test_it_has_one_title_at_its_start(self, path: Path):
        text = ["".join(cell["source"]) for cell in read(path) if cell["cell_type"] == "markdown"]
        assert read(path)[0]["cell_type"] == "markdown"
        assert text[0].startswith("# ")
        assert sum(len(re.findall(r"^# ", part, re.MULTILINE)) for part in text) == 1

    def test_it_was_run_from_top_to_bottom(self, path: Path):
        assert [cell["execution_count"] for cell in code_cells(path)] == list(range(1, len(code_cells(path)) + 1))
        assert all(output["output_type"] in ("stream", "display_data", "execute_result") for output in outputs(path))

    def test_it_ends_in_a_picture(self, path: Path):
        assert "image/png" in code_cells(path)[-1]["outputs"][-1]["data"]

    def test_it_holds_nothing_of_the_machine_that_ran_it(self, path: Path):
        content = json.loads(path.read_text())
        assert content["metadata"].keys() <= {"kernelspec", "language_info"}
        assert content["metadata"]["kernelspec"]["name"] == "python3"
        assert not any(cell["metadata"] for cell in content["cells"])
        assert not any(output.get("name") == "stderr" for output in outputs(path))
        shown = [{key: value for key, value in o.get("data", o).items() if key != "image/png"} for o in outputs(path)]
        text = json.dumps([shown, [cell["source"] for cell in content["cells"]]])
        assert not re.search(r"/(home|root|Users|tmp|work|usr|opt)/|[A-Z]:\\\\", text)
