"""Sphinx: the documentation site. `sphinx-build -W --keep-going -n docs FOLDER` builds it."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import rlhf_jax  # noqa: E402  after the path

project = "rlhf_jax"
author = "The rlhf_jax authors"
copyright = author
version = release = rlhf_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "library",
]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "rlhf_jax"
html_theme_options = {"show_toc_level": 2, "navbar_persistent": []}
html_show_copyright = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# A single backtick in a docstring is code, not a title.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Signatures name types of other projects and aliases of our own: only a reference that a page
# writes out has to lead somewhere.
nitpick_ignore_regex = [("py:.*", ".*")]

# The links into jax, optax and flax need their inventories: asked for, because a build must not
# depend on a network.
intersphinx_mapping = {}
if os.environ.get("RLHF_JAX_DOCS_ONLINE"):
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
        "flax": ("https://flax.readthedocs.io/en/latest", None),
    }
