"""Reading a LoRA file: its keys and the modules it changes, checked before anything is computed.

The keys' spellings are those of sd-scripts (networks/lora.py, networks/oft.py), LyCORIS (`weight_list` of its modules),
PEFT (utils/save_and_load.py), diffusers, old and new (utils/state_dict_utils.py), and OneTrainer, which puts the embeddings
that were trained along into the file (modules/modelSaver/stableDiffusionXL/StableDiffusionXLLoRASaver.py).
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.base.files import Stamp, file_stamp
from darkroom.base.hashing import autov3, hash_file
from darkroom.checkpoint.families import describe_family
from darkroom.checkpoint.hashes import scan
from darkroom.checkpoint.header import Header, TensorInfo, read_header
from darkroom.checkpoint.numbers import CONVERTIBLE, convert_numbers
from darkroom.errors import CheckpointError, LoraError
from darkroom.loras.kinds import LoraModule, PartsError, build_module
from darkroom.loras.metadata import KEY, AdapterMetadata, AdapterMetadataError, base_in_words

_ADAPTER = r"(?:(?:\.\w+)?\.weight)?"  # PEFT's models name the adapter in between
_PARTS = {
    "down": rf"[._]lora[._]down\.weight|\.lora_linear_layer\.down\.weight|\.lora_A{_ADAPTER}",
    "up": rf"[._]lora[._]up\.weight|\.lora_linear_layer\.up\.weight|\.lora_B{_ADAPTER}",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "scale": r"\.scale",
    "scalar": r"\.scalar",
    "on_input": r"\.on_input",
    "dora_scale": r"\.dora_scale",
    "magnitude": r"\.lora_magnitude_vector(?:\.\w+){0,2}",
    "diff": r"\.(?:diff|w_norm)",
    "diff_b": r"\.(?:diff_b|b_norm)",
    **{f"hada_{part}": rf"\.hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": rf"\.lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{part: rf"\.{part}\.weight" for part in ("a1", "a2", "b1", "b2", "bm")},
    "oft_blocks": r"\.oft_blocks",
    "rescale": r"\.rescale",
}
_KEY = re.compile("(?P<module>.+)(?:" + "|".join(f"(?P<{part}>{ending})" for part, ending in _PARTS.items()) + ")")
_REFUSED = {
    "a bundled textual inversion for other models or with output vectors": r"bundle_emb\..*",
    "IA3 as PEFT writes it": r".*\.ia3_l\b.*",
    "OFT or BOFT as PEFT, OneTrainer or early LyCORIS write it": r".*\.(?:oft_(?:diag|r|R)|boft_(?:R|s))\b.*",
    "AdaLoRA": r".*\.lora_E\b.*",
    "VeRA": r".*\.vera_lambda_[bd]\b.*",
    "a LoRA of embeddings": r".*\.lora_embedding_[AB]\b.*",
    "a LoRA with biases of its own": r".*\.lora_[AB](?:\.\w+)?\.bias",
    "ComfyUI's weights that replace the model's": r".*\.(?:set_weight|reshape_weight)",
    "a quantised LoRA": r".*[._](?:absmax|quant_map|quant_state|qweight|qzeros|scale_weight|scaled_fp8|weight_scale)\b.*",
}
_REFUSED_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _REFUSED.items()}
SHOWN = 3
"""The number of names in an error."""
_NUMBERS = ("alpha", "scale", "scalar", "on_input")
_BUNDLED = re.compile(r"bundle_emb\.(?P<name>.+)\.(?P<encoder>clip_[lg])")
_ENCODERS = ("clip_l", "clip_g")
_MAX_VECTORS = 75
_WRAPPERS = re.compile(r"(?<![^.])module\.|_orig_mod[._]")
"""What parallel training and torch.compile put into modules' names."""
_MODEL_HASH = re.compile("[0-9a-f]{12,64}")
_ANOTHER = "use another version of it"
_REAL_LORA = "give a LoRA in safetensors format"


@dataclass(frozen=True, slots=True)
class BundledEmbedding:
    """An embedding that was trained along with a LoRA; `name` is the word that stands for it in prompts.

    `vectors` are those for both text encoders, (k, d) each.
    """

    name: str
    vectors: tuple[TensorInfo, TensorInfo]


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A checked LoRA file. `base` is the model it was made for, such as "SDXL", None if unknown.

    `sha256` is the whole file's, `short_hash` the 12 digits that A1111 writes as a LoRA's hash. `stamp` (size, time of
    change in ns, inode) differs from that of the file at `path` once that was changed or replaced.
    """

    path: Path
    name: str
    base: str | None
    sha256: str
    short_hash: str
    modules: tuple[LoraModule, ...]
    embeddings: tuple[BundledEmbedding, ...]
    data_offset: int
    stamp: Stamp

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its modules, each once, ascending."""
        return tuple(sorted({module.rank for module in self.modules if module.rank is not None}))


def read_lora(path: Path, name: str) -> LoraFile:
    """Read and check the LoRA at `path`; errors call it `name`.

    Raises LoraError (E-LORA) for a file that isn't a LoRA, is of a kind that can't be applied, is incomplete or can't
    be read; PickleError (E-PICKLE), NotWeightsError (E-NOTWEIGHTS) and FormatError (E-FORMAT) for a file that isn't
    safetensors; NanWeightError (E-NANWEIGHT) for a tensor with NaN or Inf.
    """
    try:
        with path.open("rb") as file:
            stamp = file_stamp(os.fstat(file.fileno()))
            header = read_header(path)
            embeddings, keys = _take_embeddings(header, name)
            parts = _sort_keys(header, keys, name)
            modules = _Builder(name, header, file.fileno()).build(parts)
            sha256 = scan(file.fileno(), header, name)
        short_hash = header.metadata.get("sshs_model_hash", "").lower()
        if not _MODEL_HASH.fullmatch(short_hash):
            short_hash = hash_file(path, skip=header.data_offset)
        if file_stamp(path.stat()) != stamp:  # the header and the rest may be of two files
            raise LoraError("LoRA", name, "was replaced while it was read", "try again")
    except OSError as error:
        raise LoraError("LoRA", name, error.strerror or "can't be read", "fetch it again") from None
    except CheckpointError as error:
        raise error.of_kind("LoRA", name) from None
    base = base_in_words(header.metadata, ((module.name, module.shape) for module in modules))
    return LoraFile(path, name, base, sha256, autov3(short_hash), modules, embeddings, header.data_offset, stamp)


def split_key(key: str) -> tuple[str, str] | None:
    """The module's name and the part (`down`, `up`, `alpha`, `hada_w1_a`, …), or None for an unknown key."""
    found = _KEY.fullmatch(key)
    return None if found is None or found.lastgroup is None else (found["module"], found.lastgroup)


def refused_kind(keys: Iterable[str]) -> tuple[str, str] | None:
    """The kind of a file that can't be applied and the key that shows it; None if no key is of such a kind."""
    for key in keys:
        for kind, pattern in _REFUSED_PATTERNS.items():
            if pattern.fullmatch(key):
                return kind, key
    return None


def _take_embeddings(header: Header, name: str) -> tuple[tuple[BundledEmbedding, ...], list[str]]:
    """The embeddings in the file, and the keys that aren't theirs. Raises LoraError (E-LORA) for an incomplete one."""
    found: defaultdict[str, dict[str, TensorInfo]] = defaultdict(dict)
    others = []
    for key, info in header.tensors.items():
        if (bundled := _BUNDLED.fullmatch(key)) is not None:
            found[bundled["name"]][bundled["encoder"]] = info
        else:
            others.append(key)
    for word, vectors in found.items():
        shapes = [vectors[encoder].shape for encoder in _ENCODERS if encoder in vectors]
        counts = {shape[0] if len(shape) == 2 else 0 for shape in shapes}
        is_usable = len(shapes) == 2 and len(counts) == 1 and 1 <= min(counts) <= _MAX_VECTORS
        if not is_usable or any(info.dtype not in CONVERTIBLE for info in vectors.values()):
            why = f"bundles the embedding '{word[:120]}' without 1 to {_MAX_VECTORS} vectors for each of both text encoders"
            raise LoraError("LoRA", name, why, _ANOTHER)
    embeddings = (BundledEmbedding(word, (found[word]["clip_l"], found[word]["clip_g"])) for word in sorted(found))
    return tuple(embeddings), others


def _sort_keys(header: Header, keys: Iterable[str], name: str) -> dict[str, dict[str, str]]:
    """The key of each part of each module. Raises LoraError (E-LORA) for keys that can't be applied.

    A module has the name that its first key gives it: diffusers' convert_state_dict_to_kohya leaves dots in the names of
    some of its parts only.
    """
    found: dict[str, dict[str, str]] = {}
    names: dict[str, str] = {}
    unknown = []
    for key in keys:
        split = _split_ia3(key, header) or split_key(key)
        if split is None:
            unknown.append(key)
            continue
        written, part = _WRAPPERS.sub("", split[0]), split[1]
        module = names.setdefault(written.replace(".", "_"), written)
        parts = found.setdefault(module, {})
        if part in parts:
            why = f"holds the {part} of {module[:120]} twice, as '{parts[part][:120]}' and '{key[:120]}'"
            raise LoraError("LoRA", name, why, _ANOTHER)
        parts[part] = key
    if unknown:
        raise LoraError("LoRA", name, *_describe_unknown(header, unknown))
    if not found:
        why = "holds embeddings alone" if header.tensors else "holds no tensors"
        raise LoraError("LoRA", name, why, _ANOTHER)
    for parts in found.values():
        stem = parts.get("dora_scale", "").removesuffix("dora_scale")
        if stem and not any(key.startswith(stem) for part, key in parts.items() if part != "dora_scale"):
            parts["magnitude"] = parts.pop("dora_scale")  # PEFT's, by row, which that conversion renames
    return found


def _split_ia3(key: str, header: Header) -> tuple[str, str] | None:
    """As `split_key`, for the weights of IA3, whose ending says nothing by itself."""
    module = key.removesuffix(".weight")
    return (module, "weight") if module != key and f"{module}.on_input" in header.tensors else None


def _describe_unknown(header: Header, unknown: list[str]) -> tuple[str, str]:
    """Why a file with such keys can't be applied, and a hint."""
    refused = refused_kind(unknown)
    if refused is not None:
        kind, key = refused
        return f"is or holds {kind}, which can't be applied ('{key[:120]}')", "use a LoRA, LoHa, LoKr or DoRA"
    family = describe_family(header.tensors)
    if family is not None and not family.found.startswith("a LoRA"):
        return f"is {family.found}, not a LoRA", _REAL_LORA
    if family is None and any(key.startswith("model.diffusion_model.") for key in unknown):
        return "is a whole SDXL checkpoint, not a LoRA", _REAL_LORA
    count = "" if len(unknown) == len(header.tensors) else f"{len(unknown)} of {len(header.tensors)} "
    return f"holds {count}tensors of no known kind, such as {_listed(unknown)}", _REAL_LORA


class _Builder:
    """Makes modules of sorted keys, and reads the alphas and scales among their parts from the open file."""

    def __init__(self, name: str, header: Header, file: int) -> None:
        self._name = name
        self._header = header
        self._file = file

    def build(self, parts: Mapping[str, Mapping[str, str]]) -> tuple[LoraModule, ...]:
        """All modules, by name; `parts` are the keys of each one's parts. Raises LoraError (E-LORA)."""
        try:
            metadata = AdapterMetadata(self._header.metadata.get(KEY))
        except AdapterMetadataError as error:
            raise LoraError("LoRA", self._name, f"the {KEY} in its header {error}", _ANOTHER) from None
        return tuple(self._module(module, parts[module], metadata) for module in sorted(parts))

    def _module(self, module: str, keys: Mapping[str, str], metadata: AdapterMetadata) -> LoraModule:
        tensors = {part: self._header.tensors[key] for part, key in keys.items()}
        numbers = {part: self._number(keys[part], tensors.pop(part)) for part in _NUMBERS if part in keys}
        for part, info in tensors.items():
            if info.dtype not in CONVERTIBLE:
                why = f"is quantised: '{keys[part][:120]}' is {info.dtype}, not floating point"
                raise LoraError("LoRA", self._name, why, _ANOTHER)
        settings, known_as = metadata.settings_for(module)
        is_stabilised = "alpha" not in numbers and settings.rank_stabilised
        alpha = settings.alpha_of(known_as)
        if "alpha" not in numbers and alpha is not None:
            numbers["alpha"] = alpha
        try:
            return build_module(module, tensors, numbers, rank_stabilised=is_stabilised)
        except PartsError as error:
            raise LoraError("LoRA", self._name, f"its module {module[:120]} {error}", _ANOTHER) from None

    def _number(self, key: str, info: TensorInfo) -> float:
        is_whole = info.dtype[0] in "IU"
        if math.prod(info.shape) != 1 or not (is_whole or info.dtype in CONVERTIBLE):
            raise LoraError("LoRA", self._name, f"its '{key[:120]}' is not a single number", _ANOTHER)
        data = os.pread(self._file, info.end - info.start, self._header.data_offset + info.start)
        if is_whole:
            return float(int.from_bytes(data, "little", signed=info.dtype[0] == "I"))
        try:
            (number,) = struct.unpack("<f", convert_numbers(data, info.dtype, "F32"))
        except OverflowError:
            raise LoraError("LoRA", self._name, f"its '{key[:120]}' is beyond single precision", _ANOTHER) from None
        return float(number)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name[:120]}'" for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
