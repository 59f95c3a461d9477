"""The house has floors; an import goes to the same floor, where allowed, or to one below."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l2s_pydra.workflows.segmenting import DECIDES_NO_SEGMENTATION
from l2s_pydra.workflows.session import _TELLS

ROOT = Path(__file__).parents[1]
PACKAGES = {"l2s_pydra": ROOT / "l2s_pydra", "l2s_pydra.workflows": ROOT / "workflows"}

FLOOR_0 = {"", "errors", "labels", "config", "jsonfiles", "models", "plugins", "values"}
FLOOR_1 = {
    "networks",
    "normalisation",
    "targets",
    "synthesis",
    "augmentation",
    "segmentation",
    "bilevel",
}
FLOOR_2 = {"images", "bids", "reports"}
SHARED_1 = FLOOR_0 | {"networks", "normalisation", "targets"}

OURS = {
    **dict.fromkeys(FLOOR_0, FLOOR_0),
    **{name: SHARED_1 | {name} for name in FLOOR_1},
    **{name: FLOOR_0 | {name} for name in FLOOR_2},
    "steps": FLOOR_0 | FLOOR_1 | FLOOR_2 | {"steps"},
    "tasks": FLOOR_0 | {"steps", "tasks"},
    "interfaces": FLOOR_0 | {"steps", "interfaces"},
    "workflows": FLOOR_0 | {"bids", "steps", "tasks", "interfaces", "workflows", "bids_examples"},
    "__main__": {"workflows"},
}
EXCEPTIONS = {
    "l2s_pydra/__init__.py": {"steps"},
    "bilevel/training.py": {"synthesis", "augmentation", "segmentation"},
    "bilevel/batches.py": {"synthesis"},
    "bilevel/building.py": {"augmentation"},
    "bilevel/validation.py": {"segmentation"},
}

BASE = {"attrs", "numpy"}
TORCH = BASE | {"torch", "safetensors", "scipy"}
THIRD_PARTY = {
    **dict.fromkeys(FLOOR_0, BASE),
    **dict.fromkeys(FLOOR_1, TORCH),
    "images": BASE | {"nibabel", "scipy", "torch"},
    "bids": BASE | {"bids", "filelock", "sqlalchemy"},
    "reports": BASE | {"jinja2", "markupsafe", "matplotlib", "nibabel", "nilearn", "scipy"},
    "steps": TORCH | {"nibabel", "tqdm"},
    "tasks": BASE | {"fileformats", "pydra"},
    "interfaces": BASE | {"nipype"},
    "workflows": BASE | {"cloudpickle", "fileformats", "nipype", "pydra", "yaml"},
    "__main__": set(),
}


def modules() -> Iterator[tuple[str, Path, str]]:
    """Folder or module below the package, file, and name of its package."""
    for package, root in PACKAGES.items():
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            parts = [package, *inside.parts[:-1]]
            top = "workflows" if package.endswith("workflows") else inside.parts[0]
            yield top.removesuffix(".py").replace("__init__", ""), path, ".".join(parts)


MODULES = [pytest.param(*m, id=m[1].relative_to(ROOT).as_posix()) for m in modules()]


def imports(tree: ast.AST, package: str, *, lazy: bool = True) -> Iterator[str]:
    """Absolute names of all modules imported, in functions too unless ``lazy`` is false."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
            yield from imports(node, package, lazy=lazy)


def place(name: str) -> str:
    """Floor's folder or module of one of our names; empty for the package itself."""
    known = set(OURS) | {"bids_examples"}
    part = ([*name.split("."), ""])[1]
    return part if part in known else ""


@pytest.mark.parametrize(("where", "path", "package"), MODULES)
def test_imports_of_ours_go_down(where, path, package):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = OURS[where] | EXCEPTIONS.get("/".join(path.parts[-2:]), set())
    used = {place(name) for name in imports(tree, package) if name.split(".")[0] == "l2s_pydra"}
    assert used <= allowed


@pytest.mark.parametrize(("where", "path", "package"), MODULES)
def test_third_parties_belong_to_floors(where, path, package):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = {name.split(".")[0] for name in imports(tree, package)}
    assert roots - {"l2s_pydra"} - sys.stdlib_module_names <= THIRD_PARTY[where]


@pytest.mark.parametrize(
    ("where", "path", "package"), [m for m in MODULES if m.values[0] in ("tasks", "interfaces")]
)
def test_steps_are_imported_when_a_task_runs(where, path, package):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "steps" not in {place(name) for name in imports(tree, package, lazy=False)}


@pytest.mark.parametrize(
    ("where", "path", "package"),
    [m for m in MODULES if m.values[0] in ("bids", "reports", "workflows", "tasks", "interfaces")],
)
def test_torch_is_imported_when_it_is_needed(where, path, package):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = {name.split(".")[0] for name in imports(tree, package, lazy=False)}
    assert not roots & {"torch", "matplotlib", "bids"}


def reached(start: str) -> set[str]:
    """Modules below the package that a module imports, and those that these import, as paths."""
    root, found, todo = PACKAGES["l2s_pydra"], set(), [start]
    while todo:
        module = todo.pop()
        if module in found:
            continue
        found.add(module)
        package = ".".join(["l2s_pydra", *Path(module).parts[:-1]])
        for name in imports(ast.parse((root / module).read_text(encoding="utf-8")), package):
            parts = name.split(".")[1:] if name.startswith("l2s_pydra.") else []
            places = [Path(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
            places += [Path(*parts[:n]).with_suffix(".py") for n in range(1, len(parts) + 1)]
            todo += [place.as_posix() for place in places if (root / place).is_file()]
    return found


def test_what_a_task_imports_is_in_the_code_version():
    found = reached("tasks/__init__.py")
    assert {"steps/learn.py", "steps/segment.py", "steps/assess.py"} <= found
    assert not found & _TELLS


def test_what_segments_knows_nothing_of_training():
    """So that another training method leaves segmentations as they are."""
    found = reached("steps/segment.py")
    assert {"bids/derivatives.py", "segmentation/tiles.py", "images/conform.py"} <= found
    assert not {module.split("/")[0] for module in found} & set(DECIDES_NO_SEGMENTATION)


def test_the_reader_sees_every_kind_of_import():
    source = "import a.b\nfrom . import c\nfrom ..d import e\ndef f():\n    from g import h\n"
    found = set(imports(ast.parse(source), "l2s_pydra.x"))
    assert found == {"a.b", "l2s_pydra.x.c", "l2s_pydra.d.e", "g.h"}
