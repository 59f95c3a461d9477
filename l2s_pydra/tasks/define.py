"""Definition of tasks whose class keeps its docstring."""

from typing import TYPE_CHECKING, Any

from pydra.compose import python

__all__ = ["define"]

if TYPE_CHECKING:
    from pydra.compose.python import define
else:

    def define(declared: type) -> Any:
        """Make a Pydra task of a class, as ``pydra.compose.python.define`` does.

        Pydra gives the task the docstring of its ``function``; here it keeps that of the class,
        which says what each input is, so that ``help`` and ``?`` in a notebook show it.

        Parameters
        ----------
        declared : type
            Class with typed attributes, ``Outputs`` and a static method ``function``.

        Returns
        -------
        type
            The task.
        """
        task = python.define(declared)
        task.__doc__ = declared.__doc__
        return task
