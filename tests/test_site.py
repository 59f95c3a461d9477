"""The documentation site builds without a warning, and asks nothing of the network."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

from tests.test_public_names import MODULES

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built pages; the sources are copied, since stubs are written beside them."""
    work = tmp_path_factory.mktemp("site")
    stubs = shutil.ignore_patterns("_build", "api", "__pycache__")
    for folder in ("docs", "containers", "l2s_pydra/models"):
        shutil.copytree(ROOT / folder, work / folder, ignore=stubs)
    for page in ROOT.glob("*.md"):
        shutil.copy(page, work / page.name)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", "html"]
    # proxies that refuse: whatever asks the network fails
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        command,
        cwd=work,
        # not the package of this folder, of which only the models are there
        env={**os.environ, **nowhere, "HOME": str(work), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return work / "html"


def pages(site):
    return [path for path in site.rglob("*.html") if "_static" not in path.parts]


def test_pages_load_nothing_from_elsewhere(site):
    assert len(pages(site)) > 20
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\ssrc="([^"]+)"', text)
        loaded += re.findall(r'<link\b(?=[^>]*rel="(?:stylesheet|icon)")[^>]*href="([^"]+)"', text)
        assert loaded
        for address in loaded:
            assert "//" not in address, f"{page.name} loads {address}"
            assert (page.parent / address.partition("?")[0]).exists(), address


def test_formulas_are_mathml(site):
    text = (site / "method.html").read_text(encoding="utf-8")
    source = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert text.count('<div class="math">') == source.count("```math\n")
    assert text.count("<math") > 50
    assert "$" not in re.sub(r"<(code|pre|script)\b.*?</\1>", "", text, flags=re.S)


def test_every_public_name_is_in_the_reference(site):
    with (site / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, path: path)
    explained = {name for kind in inventory if kind.startswith("py:") for name in inventory[kind]}
    for name in MODULES:
        if name.startswith("l2s_pydra.bids_examples."):
            continue
        module = importlib.import_module(name)
        package = importlib.import_module(name.rpartition(".")[0] or name)
        for item in getattr(module, "__all__", ()):
            places = {f"{name}.{item}", f"{package.__name__}.{item}"}
            source = getattr(getattr(module, item), "__module__", "l2s_pydra")
            ours = source.startswith(("l2s_pydra", "types", "builtins"))
            if ours and item != "__version__":
                assert places & explained, f"{name}.{item}"
