"""Sphinx settings of the documentation site; nothing is fetched while it is built.

``python -m sphinx -W --keep-going docs docs/_build`` builds it. The pages are the Markdown files of
this folder, as they can be read on a code host; those of the API are made from docstrings.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from offered import pages

import l2s_pydra

project = "l2s_pydra"
author = "the l2s_pydra developers"
project_copyright = author
version = release = l2s_pydra.__version__

extensions = [
    "docstrings",
    "engines",
    "mathml",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates"]
html_theme = "furo"
html_title = f"l2s_pydra {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_math_renderer = "mathml"

# Pages
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]  # ```math is what code hosts show as a formula
myst_heading_anchors = 4  # the anchors of code hosts
nb_execution_mode = "off"  # a test runs the notebook; its outputs come with it
copybutton_exclude = ".linenos, .gp, .go"

# API
autodoc_typehints = "none"  # types stand in the docstrings, with shapes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autosummary_context = {"pages": pages("l2s_pydra")}
