"""Settings of the documentation site: Sphinx reads this file. ``make docs`` builds the site without network access."""

import tomllib
from importlib.metadata import version as installed_version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
metadata = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

project = metadata["name"]
author = metadata["authors"][0]["name"]
project_copyright = author
release = version = installed_version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
source_suffix = {".md": "markdown"}

# Links to headings of other pages (page.md#heading) are checked; a broken one fails the build.
myst_heading_anchors = 3
myst_enable_extensions = ["deflist", "fieldlist"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Other projects' inventories would be fetched while building. Add entries with a local inventory file only.
intersphinx_mapping: dict[str, tuple[str, str | None]] = {}

html_theme = "furo"
html_title = f"{project} {release}"
html_show_sourcelink = False
html_theme_options = {"sidebar_hide_name": False}
