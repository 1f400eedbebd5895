"""The documentation site: Sphinx with MyST and furo, from the pages that stage.py has laid out (`make docs`).

It opens from file:// and asks the network for nothing: no fonts, no CDN, no mathematics that a script typesets.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from sphinx.application import Sphinx

from distillaw.version import __version__

sys.path.insert(0, str(Path(__file__).parent))
import docstrings

project = "distillaw"
author = "distillaw"
release = __version__
project_copyright = f"{datetime.now(UTC).year}, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4  # `page.md#a-heading`, as GitHub writes it

smartquotes = False  # `--study` in the words of an option is no dash
default_role = "code"  # `name` in a docstring
autodoc_typehints = "none"  # signatures carry them
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [
    ("Validity", "params_style"),
    ("Source", "notes_style"),
    ("Differs from source", "notes_style"),
]

html_theme = "furo"
html_title = f"distillaw {__version__}"
html_static_path = ["static"]
html_css_files = ["distillaw.css"]
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # summaries are fetched, which file:// forbids
html_last_updated_fmt = None
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(app: Sphinx) -> None:
    """Docstrings are prepared before napoleon (priority 500) reads their sections."""
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)
