"""The keys of a prompt sheet and the settings of a picture."""

from __future__ import annotations

from darkroom.request.render_request import RenderRequest
from darkroom.sheets.read import PROMPT_KEYS, SHEET_KEYS
from darkroom.sheets.settings import SETTING_KEYS
from tools.reference.markdown import code, table, type_of, value
from tools.schemas import setting_schemas

_SHEET = {
    "checkpoints": ("text or list", "all of the configuration", "The checkpoints that render this sheet, by name."),
    "defaults": ("mapping", "`{}`", "Settings for every prompt of this sheet."),
    "prompts": ("list", "required", "The prompts: each a text, or a mapping with the keys below."),
}
_PROMPT = {
    "id": ("text", "made from the prompt", "The picture's file name, followed by its seed."),
    "prompt": ("text", "required", str(RenderRequest.model_fields["prompt"].description)),
    "checkpoints": ("text or list", "the sheet's", "The checkpoints that render this prompt, by name."),
}


def make_parts() -> dict[str, str]:
    """The keys of a sheet, those of a prompt that are no settings, and the settings."""
    head = ("key", "type", "default", "effect")
    own = [key for key in PROMPT_KEYS if key not in SETTING_KEYS]
    return {
        "sheet": table(head, [(code(key), *_SHEET[key]) for key in SHEET_KEYS]),
        "prompt": table(head, [(code(key), *_PROMPT[key]) for key in own]),
        "settings": setting_table(),
    }


def setting_table() -> str:
    """A row for each setting of a picture."""
    rows = [
        (code(name), type_of(about, ["maxLength"]), _default(name), str(about["description"]))
        for name, about in setting_schemas().items()
    ]
    return table(("setting", "type", "default", "effect"), rows)


def _default(name: str) -> str:
    """`seeds` and `preset` stand for other settings and have none."""
    field = RenderRequest.model_fields.get(name)
    return "" if field is None else value(field.get_default())
