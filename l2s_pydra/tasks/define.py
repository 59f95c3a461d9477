"""Definition of tasks whose class keeps its docstring."""

from typing import TypeVar, cast, dataclass_transform

from pydra.compose import python

__all__ = ["define"]

_Class = TypeVar("_Class", bound=type)


@dataclass_transform(kw_only_default=True, field_specifiers=(python.arg,))
def define(declared: _Class) -> _Class:
    """Make a Pydra task of a class, as ``pydra.compose.python.define`` does.

    Pydra gives the task the docstring of its ``function``; here it keeps that of the class, which
    says what each input is, so that ``help`` and ``?`` in a notebook show it.

    Parameters
    ----------
    declared : type
        Class with typed attributes, ``Outputs`` and a static method ``function``.

    Returns
    -------
    type
        The task.
    """
    task = cast(_Class, python.define(declared))
    task.__doc__ = declared.__doc__
    return task
