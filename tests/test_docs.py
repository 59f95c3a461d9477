"""The documentation says what the code does."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from l2s_pydra.augmentation import available
from l2s_pydra.config import PRESETS, preset
from l2s_pydra.steps.outputs import DATASET_OUTPUTS, IMAGE_OUTPUTS
from l2s_pydra.workflows.arguments import EPILOG, build_parser
from l2s_pydra.workflows.options import LEVELS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
USAGE = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
NOT_RUN = "<!-- not run here -->"


def named(paths):
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in paths]


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def anchors(path):
    """Names that GitHub gives to the headings of a page."""
    text = without_code(path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def section(text, title):
    """Text below a heading, up to the next one of any level."""
    return re.split(rf"^#+ {re.escape(title)}$", text, flags=re.M)[1].split("\n#")[0]


def rows(text):
    """Cells of the rows of the first table, without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def python_blocks(path):
    """Python code, and whether it can run as it is."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(rf"({NOT_RUN}\n)?^```python\n(.*?)^```", text, re.S | re.M)
    return [(code, not mark) for mark, code in found]


def settings(name, ndim=3):
    """Settings of a preset by their dotted names."""
    flat = {}
    for section_name, value in preset(name, ndim=ndim).to_dict().items():
        if isinstance(value, dict):
            flat |= {f"{section_name}.{field}": v for field, v in value.items()}
        else:
            flat[section_name] = value
    # JSON has lists only, as the page has.
    return json.loads(json.dumps(flat))


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_has_its_place_in_the_site():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)^```", index, re.S | re.M)
    pages = {p.stem for p in (ROOT / "docs").iterdir() if p.suffix in (".md", ".ipynb")}
    assert sorted("".join(listed).split()) == sorted(pages - {"index"})


def test_every_option_is_explained():
    options = {name for action in build_parser()._actions for name in action.option_strings}
    assert options
    for option in options:
        assert re.search(rf"`{re.escape(option)}(?![\w-])", USAGE), option


def test_no_option_is_invented():
    options = {name for action in build_parser()._actions for name in action.option_strings}
    for title in (
        "Which images",
        "learn",
        "participant and group",
        "Resources",
        "Files and folders",
        "In place of a run",
        "General",
    ):
        for first, *_ in rows(section(USAGE, title)):
            mentioned = re.findall(r"`(--?[a-z][\w-]*)", first)
            assert mentioned
            assert set(mentioned) <= options


@pytest.mark.parametrize("page", named([ROOT / "README.md", ROOT / "docs" / "usage.md"]))
def test_commands_have_no_unknown_option(page):
    options = {name for action in build_parser()._actions for name in action.option_strings}
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^l2s-pydra .*$", text, re.M)
    assert commands
    for command in commands:
        own = re.sub(r'"[^"]*"', '""', command)  # options of others are values of ours
        assert set(re.findall(r"(?<=\s)--[\w-]+", own)) <= options, command


def test_levels_and_exit_codes_are_listed():
    assert [row[0].strip("`") for row in rows(section(USAGE, "Levels"))] == list(LEVELS)
    codes = {int(code) for row in rows(section(USAGE, "Exit codes")) for code in row[0].split(",")}
    in_help = {int(code) for code in re.findall(r"(?:: |; )(\d+) ", EPILOG.replace("\n", " "))}
    assert in_help <= codes
    assert codes - in_help == {130, 143}


def test_every_setting_has_its_value_and_its_meaning():
    table = {
        name.strip("`"): (value, text) for name, value, text in rows(section(USAGE, "Settings"))
    }
    assert {name: json.loads(value) for name, (value, _) in table.items()} == settings("default")
    assert all(text for _, text in table.values())


def test_presets_are_as_the_table_says():
    table = rows(section(USAGE, "Presets"))
    listed = {row[0].strip("`") for row in table}
    values = {(p, ndim): settings(p, ndim) for p in PRESETS for ndim in (2, 3)}
    for name in settings("default"):
        different = any(
            len({json.dumps(values[p, ndim][name]) for p in PRESETS}) > 1 for ndim in (2, 3)
        )
        assert (name in listed) == different, name
    for name, *cells in table:
        for p, cell in zip(PRESETS, cells, strict=True):
            in_3d, _, in_2d = cell.rstrip(")").partition(" (")
            assert json.loads(in_3d) == values[p, 3][name.strip("`")], (name, p)
            assert json.loads(in_2d or in_3d) == values[p, 2][name.strip("`")], (name, p)


def test_defaults_in_the_method_are_those_of_the_settings():
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    values = {name.rpartition(".")[2]: value for name, value in settings("default").items()}
    prose = "\n".join(line for line in page.splitlines() if not line.startswith("|"))
    quoted = re.findall(r"`(\w+)` \[([^\]]+)\]", prose)
    known = [(name, value) for name, value in quoted if name in values]
    assert known
    for name, value in known:
        assert json.loads(value) == values[name], name


def test_messages_are_those_of_the_code():
    sources = [*(ROOT / "l2s_pydra").rglob("*.py"), *(ROOT / "workflows").glob("*.py")]
    texts = [
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    table, warnings = section(USAGE, "Troubleshooting").split("Warnings on a participant's page:")
    messages = [row[0].strip("`") for row in rows(table)]
    messages += [row[0].removesuffix(": ...") for row in rows(warnings)]
    assert len(messages) > 30
    for message in messages:
        assert any(message in text for text in texts), message


@pytest.mark.parametrize("row", [*IMAGE_OUTPUTS.values(), *DATASET_OUTPUTS.values()])
def test_every_output_is_explained(row):
    page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    if row.key in IMAGE_OUTPUTS:
        assert f"_{row.suffix}{row.extension}`" in page
        assert row.folder != "figures" or "/figures/" in page
    else:
        fields = {"participant": "sub-01", "run": "<run>", "segmentation": "tissue"}
        fields |= {"model": "<name>", "group": "group", "kind": "act"}
        names = [row.path.format(**fields, name=n) for n in ("<image>", "<name>")]
        # files of prov/ are listed in a section of their own, without their folder
        assert any(name.removeprefix("prov/") in page for name in names)


def test_every_augmentation_is_explained():
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    listed = {row[0].split("`")[1] for row in rows(section(page, "The augmentations"))}
    assert listed == set(available())
    assert all(f"`{name}`" in USAGE for name in available())


@pytest.mark.parametrize("page", named(PAGES))
def test_python_is_python(page):
    blocks = python_blocks(page)
    assert len(blocks) == page.read_text(encoding="utf-8").count("\n```python\n")
    for code, _ in blocks:
        assert compile(code, str(page), "exec"), code


def run(code, folder):
    """Run a script in an empty folder, with an empty home."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    quiet = {"NO_ET": "1", "NIPYPE_NO_ET": "1", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", named([ROOT / "README.md", ROOT / "docs" / "embedding.md"]))
@pytest.mark.slow
def test_python_runs(page, tmp_path):
    """All blocks of a page are one script."""
    blocks = python_blocks(page)
    assert blocks
    run("\n".join(code for code, runs in blocks if runs), tmp_path)
