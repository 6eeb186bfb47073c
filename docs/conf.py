"""What Sphinx is told about the site that `docs/site_sources.py` puts together."""

project = "rekd"
copyright = "the authors of rekd, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "rekd"
html_show_sphinx = False
html_copy_source = False
myst_heading_anchors = 4
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "code"  # the docstrings mark code with single backticks, as Markdown does
