"""Inputs and outputs of Pydra tasks and workflows and of Nipype interfaces.

Both engines keep them in fields of their own, where autodoc does not look for them.
"""

import re
from collections.abc import Iterator
from typing import Any

import attrs
from nipype.interfaces.base import BaseInterface, isdefined
from pydra.compose import workflow
from pydra.compose.base import Task
from pydra.utils.general import get_fields
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

_INTERNAL = ("constructor", "function")
_Entry = tuple[str, str, str]
"""Name; type and default; what it is."""


def _is_task(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Task)


def _is_interface(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseInterface)


def _of_task(fields: Any) -> Iterator[_Entry]:
    def optional(field: Any) -> bool:
        return field.default is not attrs.NOTHING and not field.mandatory

    for field in sorted(fields, key=optional):
        if field.name in _INTERNAL:
            continue
        kind = re.sub(r"\w[\w.]*\.", "", stringify_annotation(field.type))
        default = f", default={field.default!r}" if optional(field) else ""
        yield field.name, f"{kind}{default}", field.help


def _of_interface(spec: Any) -> Iterator[_Entry]:
    traits = [(name, spec.trait(name)) for name in spec.copyable_trait_names()]
    for name, trait in sorted(traits, key=lambda pair: not pair[1].mandatory):
        kind = trait.full_info(spec, name, None).removeprefix("a ").removeprefix("an ")
        kind = kind.replace("pathlike object or string representing an existing ", "")
        value = getattr(spec, name)
        yield name, f"{kind}, default={value!r}" if isdefined(value) else kind, trait.desc or ""


def _table(title: str, entries: Iterator[_Entry]) -> list[str]:
    lines = [f".. rubric:: {title}", ""]
    for name, kind, text in entries:
        literal = f"``{kind}``" if kind else ""
        lines += [f"**{name}** : {literal}", f"    {' '.join(text.split())}".rstrip(), ""]
    return [*lines, ""]


def _explain(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    if _is_task(value):
        if ":Parameters:" in lines:
            if issubclass(value, workflow.Task):
                return
            del lines[lines.index(":Parameters:") :]  # the tables say that, with types and defaults
        lines += ["", *_table("Inputs", _of_task(get_fields(value)))]
        lines += _table("Outputs", _of_task(get_fields(value.Outputs)))
    elif _is_interface(value) and value.input_spec and value.output_spec:
        lines += ["", *_table("Inputs", _of_interface(value.input_spec()))]
        lines += _table("Outputs", _of_interface(value.output_spec()))


def _without_signature(
    app: Any, what: str, name: str, value: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    return ("", "") if _is_task(value) or _is_interface(value) else None


def _skip(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    return True if name == "Outputs" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Go last, after numpydoc."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _explain, priority=900)
    app.connect("autodoc-process-signature", _without_signature, priority=100)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
