"""Pieces of code with their expectations, and the calls that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hypothesis import strategies as st


@dataclass(frozen=True)
class Value:
    """Code of one argument. ``good``: True if it must be taken, False if it must be refused, None if either is fine."""

    code: str
    good: bool | None = True


Values = st.SearchStrategy[Value]
Options = Mapping[str, Values]


class Check(Protocol):
    """What a call must give for the arguments that it got."""

    def expects(self, arguments: list[Any]) -> bool | None:
        """True if these arguments must be taken, False if they must be refused, None if either is fine."""

    def complaint(self, arguments: list[Any], result: Any) -> str | None:
        """What is wrong with the result. None: nothing."""


@dataclass(frozen=True)
class Call:
    """``target(options...)(arguments..., keywords...)``, each of them code.

    Attributes:
        target: what is called. With ``options`` it is a class or a function whose result is called.
        options: None, or the constructor's arguments: (name, code). A positional one has the name "".
        arguments, keywords: those of the call.
        good: what the values say about the outcome, as ``Value.good``.
        bad: the values that must be refused.
        check: of the arguments and the result.
    """

    target: str
    options: tuple[tuple[str, str], ...] | None
    arguments: tuple[str, ...]
    keywords: tuple[tuple[str, str], ...]
    good: bool | None
    bad: tuple[str, ...]
    check: Check

    @property
    def called(self) -> str:
        """The code of what is called."""
        return self.target if self.options is None else f"{self.target}({_listed(self.options)})"

    def __str__(self) -> str:
        return f"{self.called}({_listed([*(('', code) for code in self.arguments), *self.keywords])})"

    def with_options(self, **defaults: str) -> Call:
        """The same call, with these arguments of the constructor if it has none of their names."""
        return replace(self, options=_added(self.options or (), defaults))

    def with_keywords(self, **defaults: str) -> Call:
        """The same call, with these keywords if it has none of their names."""
        return replace(self, keywords=_added(self.keywords, defaults))


Codes = str | Iterable[str]
#: How many good values there are for each bad one.
USUAL = 4


def pick(good: Codes = "", bad: Codes = "", either: Codes = "") -> Values:
    """Values of one argument: their codes, or one text with " | " between them. A good value is never bad.

    Of ``USUAL`` + 1 draws about ``USUAL`` are good ones, so that calls with several arguments often succeed.
    """
    kinds = {True: split(good), False: split(bad), None: split(either)}
    kinds[False] = [code for code in kinds[False] if code not in kinds[True]]
    values = {kind: [Value(code, kind) for code in codes] for kind, codes in kinds.items()}
    others = values[False] + values[None]
    times = max(1, round(USUAL * len(others) / max(len(values[True]), 1)))
    return st.sampled_from(values[True] * times + others)


def split(codes: Codes) -> list[str]:
    """The codes in a text with " | " between them."""
    if isinstance(codes, str):
        return [code for code in codes.split(" | ") if code.strip()]
    return list(codes)


def only(*codes: str) -> Values:
    """Good values alone."""
    return st.sampled_from([Value(code) for code in codes])


@st.composite
def mixed(draw: st.DrawFn, *strategies: st.SearchStrategy[Any]) -> Any:
    """One of the strategies; one that is given twice is drawn twice as often, unlike in ``st.one_of``."""
    return draw(strategies[draw(st.integers(0, len(strategies) - 1))])


def both(verdicts: Iterable[bool | None]) -> bool | None:
    """One bad value spoils a call. Without one, a doubtful value makes it doubtful."""
    listed = list(verdicts)
    return False if False in listed else None if None in listed else True


@st.composite
def calls(
    draw: st.DrawFn,
    target: str,
    check: Check,
    arguments: Iterable[st.SearchStrategy[Any]] = (),
    keywords: Options | None = None,
    first: Values | None = None,
    options: Options | None = None,
) -> Call:
    """A call of an object, a function or a method.

    Args:
        target: a name. With ``first`` or ``options`` it is a class, and its instance is called.
        check: of the arguments and the result.
        arguments: positional ones, as Values or as plain code.
        keywords: at most three of them are given to the call.
        first: the first positional argument of the constructor.
        options: at most three of them are given to the constructor.
    """
    values: list[tuple[str, Value]] = []
    constructed = None
    if first is not None or options is not None:
        start = [] if first is None else [("", draw(first))]
        constructed = [*start, *_some(draw, options or {})]
        values += constructed
    positional = [draw(strategy) for strategy in arguments]
    named = _some(draw, keywords or {})
    values += [*(("", value) for value in positional if isinstance(value, Value)), *named]
    return Call(
        target,
        None if constructed is None else _codes(constructed),
        tuple(value.code if isinstance(value, Value) else value for value in positional),
        _codes(named),
        both(value.good for _, value in values),
        tuple(_listed([(name, value.code)]) for name, value in values if value.good is False),
        check,
    )


def _some(draw: st.DrawFn, options: Options) -> list[tuple[str, Value]]:
    """A few of the options, at most three, with their values."""
    if not options:
        return []
    names = draw(st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True))
    return [(name, draw(options[name])) for name in names]


def _codes(values: Iterable[tuple[str, Value]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value.code) for name, value in values)


def _added(given: tuple[tuple[str, str], ...], defaults: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    names = {name for name, _ in given}
    return (*given, *((name, code) for name, code in defaults.items() if name not in names))


def _listed(arguments: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name}={code}" if name else code for name, code in arguments)
