"""Every name that a module offers is there."""

import importlib
import pkgutil

import pytest

import l2s_pydra

MODULES = [
    "l2s_pydra",
    *(
        module.name
        for module in pkgutil.walk_packages(l2s_pydra.__path__, "l2s_pydra.")
        if not module.name.rpartition(".")[2].startswith(("_", "make_"))
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name):
    module = importlib.import_module(name)
    public = getattr(module, "__all__", ())
    assert len(set(public)) == len(public)
    for item in public:
        assert getattr(module, item) is not None


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_are(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for item in getattr(module, "__all__", ()):
        value = getattr(module, item)
        if callable(value) and getattr(value, "__module__", "").startswith("l2s_pydra"):
            assert value.__doc__, f"{name}.{item} has no docstring"
