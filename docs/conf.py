"""Sphinx's settings of the documentation site. `tools/docs_site.py` assembles the pages, and runs Sphinx on them."""

from typing import Any, NoReturn

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import minibert

project = "minibert"
version = release = minibert.__version__
html_title = f"minibert {release}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
highlight_language = "text"

# Markdown, and notebooks that `make notebooks` has executed.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
nb_execution_mode = "off"
nb_merge_streams = True

# The reference.
default_role = "literal"  # docstrings put names into single backticks
autodoc_inherit_docstrings = False  # otherwise those of torch
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Keys", "params_style")]
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# Nothing is fetched from elsewhere: fonts are the system's, and formulas are MathML.
html_theme = "furo"
html_static_path = ["theme"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "github-light", "github-dark"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def _formula(display: str) -> tuple[Any, None]:
    def visit(translator: Any, node: Any) -> NoReturn:
        translator.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit, None


def setup(app: Any) -> None:
    """Let formulas need no script."""
    app.add_html_math_renderer("mathml", _formula("inline"), _formula("block"))
