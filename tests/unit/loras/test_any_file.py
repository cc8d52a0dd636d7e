"""Whatever stands in a file: it is read as a LoRA or refused with a coded error, never another exception."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkroom.checkpoint.header import DTYPE_BYTES, Shape, encode_header
from darkroom.engine.loras import delta
from darkroom.errors import DarkroomError
from darkroom.loras import read_lora
from darkroom.loras.kinds import ANY, PartsError, is_whole, magnitude_axis
from darkroom.loras.targets import Change

TEMPLATES = [
    {"lora_down.weight": "rb", "lora_up.weight": "ar"},
    {"lora_A.weight": "rbkk", "lora_B.default.weight": "ar11", "lora_magnitude_vector": "1a11"},
    {"lora_down.weight": "rb11", "lora_up.weight": "ar11", "lora_mid.weight": "rrkk", "alpha": ""},
    {"hada_w1_a": "ar", "hada_w1_b": "rb", "hada_w2_a": "ar", "hada_w2_b": "rb", "dora_scale": "1b"},
    {"hada_w1_a": "ra", "hada_w1_b": "rb", "hada_w2_a": "ra", "hada_w2_b": "rb", "hada_t1": "rrkk", "hada_t2": "rrkk"},
    {"lokr_w1": "ab", "lokr_w2": "cdkk", "alpha": ""},
    {"lokr_w1_a": "ar", "lokr_w1_b": "rb", "lokr_w2_a": "cr", "lokr_w2_b": "rd", "alpha": "", "dora_scale": "a1"},
    {"lokr_w1": "ab", "lokr_w2_a": "rc", "lokr_w2_b": "rd", "lokr_t2": "rrkk", "scale": ""},
    {"diff": "abkk", "diff_b": "a"},
    {"w_norm": "a", "b_norm": "a"},
    {"on_input": "", "weight": "a"},
    {"a1.weight": "br", "a2.weight": "rb", "b1.weight": "ar", "b2.weight": "rbkk", "scalar": ""},
    {"a1.weight": "rb", "a2.weight": "br", "b1.weight": "rb", "b2.weight": "ar", "alpha": ""},
    {"oft_blocks": "abb", "rescale": "c1", "alpha": ""},
    {"oft_blocks": "abcc"},
    {"bundle_emb.x.clip_l": "ab", "bundle_emb.x.clip_g": "ac"},
    {"a1.weight": "ab", "oft_blocks": "rbb", "quant_state": "a"},
]
ENDINGS = sorted({ending for template in TEMPLATES for ending in template})
SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
NUMBERS = ["F32", "F32", "F16", "BF16", "F8_E4M3", "F64", "I8", "U8", "I64", "BOOL", "C64"]
SETTINGS = (
    st.none()
    | st.text(max_size=20)
    | st.fixed_dictionaries(
        {},
        optional={
            "lora_alpha": st.sampled_from([None, "x", float("nan"), float("inf")]) | st.floats(-99, 99),
            "use_rslora": st.booleans(),
        },
    ).map(json.dumps)
)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Shape]:
    """Parts that mostly make whole modules, and a few that don't."""
    found: dict[str, Shape] = {}
    for module in draw(st.lists(st.sampled_from(["m", "unet.n", "lora_te1_o"]), max_size=2)):
        sizes = {letter: draw(st.integers(1, 3)) for letter in "abcdrk"} | {"1": 1}
        for ending, letters in draw(st.sampled_from(TEMPLATES)).items():
            found[f"{module}.{ending}"] = tuple(sizes[letter] for letter in letters)
    if found and draw(st.booleans()):
        found[draw(st.sampled_from(sorted(found)))] = draw(SHAPES)
    if draw(st.integers(0, 5)) == 0:
        found |= draw(st.dictionaries(st.sampled_from(ENDINGS).map("m.{}".format) | st.text(), SHAPES, max_size=2))
    found.pop("__metadata__", None)
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=tensors(), dtype=st.sampled_from(NUMBERS), adapter_metadata=SETTINGS)
def test_any_file_is_refused_with_a_coded_error_or_can_be_applied(
    tmp_path: Path, shapes: dict[str, Shape], dtype: str, adapter_metadata: str | None
) -> None:
    import torch

    rows, position = [], 0
    for key, shape in shapes.items():
        end = position + math.prod(shape) * DTYPE_BYTES[dtype]
        rows.append((key, dtype, shape, position, end))
        position = end
    path = tmp_path / "any.safetensors"
    try:
        header = encode_header(rows, {} if adapter_metadata is None else {"lora_adapter_metadata": adapter_metadata})
    except UnicodeEncodeError:  # half a surrogate pair, which no header can hold
        return
    path.write_bytes(header + b"\x01" * position)
    try:
        lora = read_lora(path, "mine")
    except DarkroomError as error:
        assert str(error).startswith(error.code)
        return
    for module in lora.modules:
        if module.shape is None:
            continue
        shape = tuple(2 if size == ANY else size for size in module.shape)
        try:
            change = Change("unet", "x.weight", module, is_bias=False, axis=magnitude_axis(module, shape))
        except PartsError:
            continue
        assert is_whole(module.shape, shape)

        def ones(part: str, parts: dict[str, Any] = module.parts) -> Any:
            return torch.ones(parts[part].shape)

        added = delta(change, ones, torch.ones(shape))
        assert added.shape == shape
        assert added.isfinite().all()
