"""The settings of Sphinx."""

import os

import comfy_client
from tests.docs.sources import resolve as linkcode_resolve  # noqa: F401 - read by Sphinx

project = "comfy_client"
release = version = comfy_client.__version__
copyright = "its authors"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "tests.docs.extension",
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Each argument of a long signature has its own line.
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# The button copies commands and code, without prompts and output.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"comfy_client {release}"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_static_path = ["static"]
html_css_files = ["site.css"]
# The pages are written by tests/docs/pages.py; readers have no use for that text.
html_copy_source = html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

# Links inside the site, which tests/docs/links.py checks, and addresses of examples.
linkcheck_ignore = ["(?!https?://)", r"https?://(127\.0\.0\.1|localhost|example\.(org|com))"]
linkcheck_timeout = 30
