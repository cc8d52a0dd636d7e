"""The keys of a prompt sheet and the settings of a picture."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic.fields import FieldInfo

from darkroom.request.control import Control
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import STAGES, DenoisingStage, Stage
from darkroom.sheets.read import PROMPT_KEYS, SHEET_KEYS
from darkroom.sheets.settings import SETTING_KEYS
from tools.reference.markdown import code, table, type_of, value
from tools.schemas import setting_schemas

_SHEET = {
    "checkpoints": ("text or list", "all of the configuration", "The checkpoints that render this sheet, by name."),
    "defaults": ("mapping", "`{}`", "Settings for every prompt of this sheet."),
    "from": (
        "path, list or mapping",
        "none",
        "Pictures that the prompts' stages begin with, in place of first passes.",
    ),
    "prompts": ("list", "required, or `from`", "The prompts: each a text, or a mapping with the keys below."),
    "styles_file": (
        "path",
        "none",
        "A file of styles as A1111's styles.csv, for `styles` in `defaults`, prompts and axes.",
    ),
    "axes": ("mapping", "`{}`", "Named lists of values. Each prompt is rendered with each combination of them."),
    "draw": ("mapping", "`{count: 1, seed: 0}`", "How many draws of the wildcards each cell has, and their seed."),
    "exclude": ("list", "`[]`", "Combinations that are left out: axis and value, or a list of values."),
    "grid": ("mapping", "the first axes", "What stands along `rows` and `columns` of the study's [grids](#grids)."),
    "include": ("list", "`[]`", "Combinations that are added."),
    "limit": ("number", "none", "More pictures than that are refused before anything runs."),
    "template": ("`dynamic-prompts`", "none", "Read the prompts in the notation of dynamic prompts."),
    "variables": ("mapping", "`{}`", "Texts for `${name}` in the prompts."),
    "wildcards": (
        "mapping or folder",
        "`{}`",
        "Lists of texts, or files with one a line, of which draws take one for `${name}`.",
    ),
}
_PROMPT = {
    "id": ("text", "made from the prompt", "The picture's file name, followed by its seed."),
    "prompt": ("text", "required, or `from`", str(RenderRequest.model_fields["prompt"].description)),
    "checkpoints": ("text or list", "the sheet's", "The checkpoints that render this prompt, by name."),
    "control": ("list", "`defaults`", "ControlNets and the pictures that they are given: see [controls](#controls)."),
    "from": ("path, list or mapping", "the sheet's", "Pictures that the stages begin with, in place of first passes."),
    "styles": ("text or list", "`[]`", "Styles of `styles_file` by name, in the order in which they are applied."),
    "then": ("list", "`defaults`", "Stages: what is made of each picture then."),
    "variables": ("mapping", "`{}`", "Texts for `${name}` in this prompt; they win over the sheet's."),
}


def make_parts() -> dict[str, str]:
    """The keys of a sheet, those of a prompt that are no settings, and the settings."""
    head = ("key", "type", "default", "effect")
    own = [key for key in PROMPT_KEYS if key not in SETTING_KEYS]
    return {
        "sheet": table(head, [(code(key), *_SHEET[key]) for key in SHEET_KEYS]),
        "prompt": table(head, [(code(key), *_PROMPT[key]) for key in own]),
        "settings": setting_table(),
        "stages": stage_tables(),
        "controls": control_table(),
    }


def stage_tables() -> str:
    """A table for each stage: its own settings, then those that all stages which denoise have."""
    shared = set(DenoisingStage.model_fields) - {"denoising_strength"}
    parts = [f"**`{name}`**: {_first_line(stage)}\n\n{_stage_table(stage, shared)}" for name, stage in STAGES.items()]
    head = "Those that denoise (all but `upscale`) also have:"
    return "\n\n".join([*parts, f"{head}\n\n{_stage_table(DenoisingStage, {'denoising_strength'})}"])


def control_table() -> str:
    """A row for each setting of a control."""
    return _stage_table(Control, ())


def _stage_table(stage: type[Stage] | type[Control], left_out: Collection[str]) -> str:
    about = stage.model_json_schema()["properties"]
    rows = [
        (code(key), _type_of_stage(about[key]), _default_of(field), str(about[key]["description"]))
        for key, field in stage.model_fields.items()
        if key not in left_out
    ]
    return table(("setting", "type", "default", "effect"), rows)


def _type_of_stage(about: dict[str, Any]) -> str:
    return "path" if about.get("pattern") else type_of(about, ["maxLength"])


def _default_of(field: FieldInfo) -> str:
    return "required" if field.is_required() else value(field.get_default())


def _first_line(stage: type[Stage]) -> str:
    return (stage.__doc__ or "").split("\n")[0]


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
