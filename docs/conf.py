"""How Sphinx builds the site: ``make docs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import seqkern  # noqa: E402

project = "seqkern"
author = "the seqkern authors"
copyright = author
version = release = seqkern.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.extensions.public_names",
    "docs.extensions.root_pages",
    "docs.extensions.source_map",
]
exclude_patterns = ["making", "extensions"]
source_suffix = {".md": "markdown"}
suppress_warnings = ["myst.header"]  # pages that are read on GitHub, too, begin at their own level

html_theme = "furo"
html_title = "seqkern"
html_copy_source = False
html_show_copyright = False
pygments_style = "default"
highlight_language = "none"  # of a block that names none

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "literal"  # `name` in docstrings is code
autodoc_inherit_docstrings = False  # torch.nn.Module's say nothing of ours
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
