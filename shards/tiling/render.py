"""Pages from templates: values in, one self-contained file out.

    templates/<name>.html, values ──▶ HTML, every value escaped, whole or not at all on disk

The templates of this room hold what all pages share (`page.html`, `page.css`, `parts.html`); other packages' extend them.
"""

import base64
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from shards.files import whole_file

MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


def environment(*packages: str) -> Environment:
    """Return the templates of `packages` (each in its folder templates/), and those of this room behind them.

    Values are escaped everywhere, in attributes too, which therefore stand in quotes; a value that is not there is an error.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "shards.tiling")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def write_page(path: Path, templates: Environment, template: str, **values: Any) -> None:
    """Write the page that a template makes of `values`, whole or not at all."""
    text = templates.get_template(template).render(values)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def data_url(content: bytes, suffix: str) -> str:
    """Return a picture as a data URL; `suffix` is that of its file: .jpg or .png."""
    return f"data:{MEDIA_TYPES[suffix]};base64,{base64.b64encode(content).decode()}"
