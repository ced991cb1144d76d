"""Pieces of code with their expectations, and the calls that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hypothesis import strategies as st


@dataclass(frozen=True)
class Value:
    """Code of one argument. ``good``: True if it must be taken, False if it must be refused, None if either is fine."""

    code: str
    good: bool | None = True


class Check(Protocol):
    """What a call must give for the arguments that it got."""

    def expects(self, arguments: list[Any]) -> bool | None:
        """True if these arguments must be taken, False if they must be refused, None if either is fine."""

    def complaint(self, arguments: list[Any], result: Any) -> str | None:
        """What is wrong with the result. None: nothing."""


@dataclass(frozen=True)
class Call:
    """``target(*arguments, **keywords)``.

    Attributes:
        target: code of what is called, such as ``DiffAug(plain, p=0.5)``.
        arguments, keywords: code of what it is called with.
        good: what the constructor's and the keywords' values say about the outcome, as ``Value.good``.
        check: of the arguments and the result.
    """

    target: str
    arguments: tuple[str, ...]
    keywords: tuple[tuple[str, str], ...]
    good: bool | None
    check: Check

    def __str__(self) -> str:
        return f"{self.target}({_listed(self.arguments, self.keywords)})"


def pick(good: Iterable[str] = (), bad: Iterable[str] = (), either: Iterable[str] = ()) -> st.SearchStrategy[Value]:
    """Values of one argument. Three of four draws are good ones, so that calls with several arguments succeed too."""
    kinds = {True: tuple(good), False: tuple(bad), None: tuple(either)}
    strategies = {kind: st.sampled_from([Value(code, kind) for code in codes]) for kind, codes in kinds.items() if codes}
    others = [strategy for kind, strategy in strategies.items() if kind is not True]
    if True not in strategies:
        return st.one_of(others)
    return st.one_of(*[strategies[True]] * (3 * max(len(others), 1)), *others)


def both(verdicts: Iterable[bool | None]) -> bool | None:
    """One bad value spoils a call. Without one, a doubtful value makes it doubtful."""
    listed = list(verdicts)
    return False if False in listed else None if None in listed else True


def one_of_codes(*codes: str) -> st.SearchStrategy[Value]:
    """Good values alone."""
    return st.sampled_from([Value(code) for code in codes])


@st.composite
def calls(
    draw: st.DrawFn,
    target: str,
    check: Check,
    arguments: Iterable[st.SearchStrategy[Any]] = (),
    keywords: Mapping[str, st.SearchStrategy[Value]] | None = None,
    first: st.SearchStrategy[Value] | None = None,
    options: Mapping[str, st.SearchStrategy[Value]] | None = None,
) -> Call:
    """A call of an object, a function or a method.

    Args:
        target: a name. With ``first`` or ``options`` it is constructed first.
        check: of the arguments and the result.
        arguments: positional ones, as Values or as code.
        keywords: any number of them is given to the call.
        first: the first positional argument of the constructor.
        options: any number of them is given to the constructor.
    """
    good: list[bool | None] = []
    if first is not None or options is not None:
        start = [] if first is None else [_code(draw(first), good)]
        target = f"{target}({_listed(start, _some(draw, options or {}, good))})"
    codes = tuple(_code(draw(strategy), good) for strategy in arguments)
    return Call(target, codes, _some(draw, keywords or {}, good), both(good), check)


def _some(
    draw: st.DrawFn, options: Mapping[str, st.SearchStrategy[Value]], good: list[bool | None]
) -> tuple[tuple[str, str], ...]:
    """A few of the options, at most three, with their code."""
    if not options:
        return ()
    names = draw(st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True))
    return tuple((name, _code(draw(options[name]), good)) for name in names)


def _code(value: Value | str, good: list[bool | None]) -> str:
    if isinstance(value, str):
        return value
    good.append(value.good)
    return value.code


def _listed(arguments: Iterable[str], keywords: Iterable[tuple[str, str]]) -> str:
    return ", ".join([*arguments, *(f"{name}={code}" for name, code in keywords)])
