"""The package's layers: which imports which, and how few calls one image takes.

``python -m tests.test_structure`` prints the imports between layers.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parent.parent / "diffaug_transforms"
#: A layer imports only from those before it.
LAYERS = (
    "deprecated",
    "public_names",
    "versions",
    "without_waiting",
    "arguments",
    "files",
    "hub",
    "labels",
    "pictures",
    "images",
    "classify",
    "figures",
    "airbench",
    "classifiers",
    "score",
    "transforms",
    "guidance",
    "robustness",
    "offline",
    "app",
    PACKAGE.name,
    "cli",
)
#: Before Python 3.12 a comprehension was a call too.
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


@cache
def modules() -> dict[str, ast.Module]:
    """Each module's syntax tree by its dotted name."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text())
    return trees


def layer(module: str) -> str:
    """The file or folder in the package's root that a module belongs to; the package's own name for its root."""
    return (module.split(".") + [PACKAGE.name])[1]


def imports(module: str) -> Iterator[tuple[str, str]]:
    """(module of this package, imported name) for each import anywhere in a module, also in functions."""
    is_package = any(name.startswith(f"{module}.") for name in modules())
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            # `from . import x` in a.b.c looks in a.b, in a.b's own __init__ too; each further dot goes up by one.
            parents = module.split(".")[: len(module.split(".")) + is_package - node.level] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in modules():
                    yield inner, alias.name
                elif source in modules():
                    yield source, alias.name


def arrows() -> dict[str, set[str]]:
    """Each layer's imports of other layers."""
    found: dict[str, set[str]] = {name: set() for name in LAYERS}
    for module in modules():
        found.setdefault(layer(module), set()).update(layer(target) for target, _ in imports(module))
    return {name: targets - {name} for name, targets in found.items()}


def test_every_layer_is_listed():
    assert set(arrows()) == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_imports_only_layers_above(name: str):
    assert arrows()[name] <= set(LAYERS[: LAYERS.index(name)])


def test_no_circle_among_modules():
    try:
        TopologicalSorter({module: {target for target, _ in imports(module)} for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def private_names(tree: ast.Module) -> set[str]:
    """Private functions, classes, methods, variables and attributes that a module makes."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("module", modules())
def test_no_private_name_of_another_layer(module: str):
    own, others = set(), set()
    for name, tree in modules().items():
        (own if layer(name) == layer(module) else others).update(private_names(tree))
    imported = {name for target, name in imports(module) if layer(target) != layer(module)}
    used = {node.attr for node in ast.walk(modules()[module]) if isinstance(node, ast.Attribute)}
    assert not [name for name in imported if name.startswith("_") and not name.startswith("__")]
    assert not used & (others - own)


def calls(run: Callable[[], Any]) -> list[tuple[str, str]]:
    """(file, function) for each call of the package's own functions by the second ``run``; the first one loads."""
    run()
    found = []

    def record(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name not in COMPREHENSIONS and Path(code.co_filename).is_relative_to(PACKAGE):
            found.append((code.co_filename, code.co_name))

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


def test_one_image_takes_few_calls():
    torch = pytest.importorskip("torch")
    from diffaug_transforms import DiffAug, DiffAugEnsemble
    from diffaug_transforms.classifiers import load_classifier

    image = torch.rand(1, 3, 32, 32)
    augment = DiffAug("cifar10")
    ensemble = DiffAugEnsemble(load_classifier("cifar10-baseline"), "cifar10")
    one = calls(lambda: augment(image))
    assert 10 < len(one) <= 30, one
    assert len({file for file, _ in one}) <= 5, one
    several = calls(lambda: ensemble(image))
    assert 10 < len(several) <= 45, several


if __name__ == "__main__":
    for name, targets in arrows().items():
        print(f"{name:20} -> {', '.join(sorted(targets, key=LAYERS.index)) or 'nothing'}")
