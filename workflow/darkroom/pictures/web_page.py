"""What all HTML pages of a run share: one file that opens from disk, its style, script and data inline.

The Content-Security-Policy allows only these, by their SHA256, and pictures of the same origin, so that nothing is loaded
from a network and no prompt can run code. Style and script are put together from files in resources/gallery.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from darkroom.resources import RESOURCES

if TYPE_CHECKING:
    from markupsafe import Markup

_FOLDER = RESOURCES / "gallery"


def render_template(
    name: str, styles: Sequence[str], scripts: Sequence[str], *, loads_scripts: bool = False, **context: Any
) -> str:
    """A page's HTML from the template `name` with the style and script files put together in their order.

    With `loads_scripts` it may also load scripts that lie beside it. Strings in `context` are escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _join(styles)
    # One function around all scripts: their names are nobody else's.
    script = '"use strict";\n(() => {\n' + _join(scripts) + "})();\n"
    page = environment.get_template(name).render(
        **context,
        version=importlib.metadata.version("darkroom"),
        policy=_policy(style, script, loads_scripts),
        style=Markup(style),  # our own files
        script=Markup(script),
    )
    return str(page)


def script_json(data: Any) -> Markup:
    """JSON that can stand in a script element: no `<` to end it, `&` and `>` escaped too for other parsers.

    Returned as markup, which a template doesn't escape again.
    """
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def pack_json(data: Any) -> str:
    """JSON as base64 of gzip, which `unpack` in unpack.js reads. The same data gives the same text."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _join(names: Sequence[str]) -> str:
    return "".join((_FOLDER / name).read_text("utf-8") for name in names)


def _policy(style: str, script: str, loads_scripts: bool) -> str:
    """Nothing but this page's own style, script and pictures. `file:` for browsers whose 'self' excludes it."""
    others = " 'self' file:" if loads_scripts else ""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src 'self' file:",
            f"style-src '{_csp_hash(style)}'",
            f"script-src '{_csp_hash(script)}'{others}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
