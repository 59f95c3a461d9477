"""Docstrings of public names, by the rules of numpydoc."""

import importlib
import inspect
import pkgutil

import pytest
from numpydoc.validate import validate

import l2s_pydra.workflows
from tests.test_public_names import MODULES

ALLOWED = {
    "ES01": "one line may say it all",
    "EX01": "examples stand in docs/, where they are run as a whole",
    "GL06": "Inputs and Outputs of Nipype workflows, as in fMRIPrep",
    "GL07": "the same",
    "PR01": "no section where the first line says it all; none in part, see below",
    "PR03": "parameters that belong together, or are those of another function, come together",
    "PR04": "several parameters of one type",
    "PR06": "integer tensor, integer array",
    "PR07": "a shape and a type can say it all",
    "RT01": "the first line says what is returned",
    "RT03": "the type of what is returned says it",
    "RT04": "a type may stand alone",
    "SA01": "the reference lists what else there is",
    "SS05": "nouns that end with s are taken for verbs",
    "YD01": "the first line says what is yielded",
}
WORKFLOWS = [m.name for m in pkgutil.iter_modules(l2s_pydra.workflows.__path__)]


def public():
    """Classes and functions that are documented, each once."""
    seen = set()
    for name in [*MODULES, *(f"l2s_pydra.workflows.{name}" for name in WORKFLOWS)]:
        module = importlib.import_module(name)
        for item in getattr(module, "__all__", ()):
            value = getattr(module, item)
            ours = str(getattr(value, "__module__", "")).startswith("l2s_pydra")
            if ours and (inspect.isclass(value) or inspect.isfunction(value)):
                if id(value) not in seen:
                    yield pytest.param(name, item, id=f"{name.partition('.')[2]}.{item}")
                seen.add(id(value))


@pytest.mark.parametrize(("module", "name"), list(public()))
@pytest.mark.filterwarnings("ignore:Unknown section")
def test_docstrings_keep_the_rules(module, name):
    value = getattr(importlib.import_module(module), name)
    found = validate(f"{module}.{name}")["errors"]
    wrong = [f"{code}: {text}" for code, text in found if code not in ALLOWED]
    text = value.__doc__ or ""
    if inspect.isfunction(value) and "Parameters\n" in text and "The others are" not in text:
        wrong += [text for code, text in found if code == "PR01"]
    assert not wrong
