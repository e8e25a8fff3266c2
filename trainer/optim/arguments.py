"""Checking the arguments that a user gives to an optimizer or a schedule by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BadInput, Problem

REFUSALS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)
"""What optimizers and schedules raise at arguments that they cannot use."""


def check_arguments(
    where: str, function: Callable[..., Any], given: Mapping[str, object], taken: tuple[str, ...]
) -> None:
    """Checks that `function` has every argument in `given` and that none is set elsewhere.

    Args:
        where: the parameter that the arguments came from, for messages.
        taken: arguments that have parameters of their own.

    Raises:
        BadInput: naming every argument that cannot be used.
    """
    names = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in taken
    ]
    problems = []
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            cure = f"did you mean {near[0]}?" if near else f"known: {', '.join(names) or 'none'}"
            if name in taken:
                cure = "it has a field of its own, or is set by Trainyard"
            problems.append(Problem(where, f"{function.__name__} does not take {name} here", cure))
    if problems:
        raise BadInput(problems)
