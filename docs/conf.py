"""The site: `python -m sphinx -W --keep-going -b html docs build/docs` (extra `docs`), then open build/docs/index.html.

Four pages are made from the program while the site is built, so that they cannot be wrong: settings.md by
hnm.settings_reference, commands.md by docs/command_reference.py, the table of encoders.md by docs/encoder_table.py,
glossary.md by hnm/report/words.py. Each has a line `<!-- generated -->`, which they replace.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from command_reference import command_reference  # noqa: E402 - the two lines above make it importable
from encoder_table import encoder_table  # noqa: E402

from hnm.report.words import glossary  # noqa: E402
from hnm.settings_reference import settings_reference  # noqa: E402

GENERATED = {"settings": settings_reference, "commands": command_reference, "encoders": encoder_table, "glossary": glossary}
PLACE = "<!-- generated -->"

project = "hnm"
author = "the hnm authors"
project_copyright = "Apache-2.0"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 4
exclude_patterns = ["examples"]
nitpicky = True

html_theme = "furo"
html_title = "hnm"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b7a75", "color-brand-content": "#0b6a8a"},
    "dark_css_variables": {"color-brand-primary": "#4fc4bd", "color-brand-content": "#6cc3e0"},
}


def fill_in(app: Sphinx, name: str, source: list[str]) -> None:
    """Put what the program says of itself in the place that the page keeps for it."""
    if name in GENERATED:
        before, place, after = source[0].partition(PLACE)
        assert place, f"docs/{name}.md has no line {PLACE}"
        source[0] = before + re.sub(r"\A# .*\n", "", GENERATED[name]()) + after  # the page has a title


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", fill_in)
