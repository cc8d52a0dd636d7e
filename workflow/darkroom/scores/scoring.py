"""Scores a picture: its similarity to its prompt by CLIP, and what heads make of CLIP's embedding of it.

On one thread of a CPU in single precision, so that a number doesn't depend on how many processors there are.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from darkroom.base.text import shorten
from darkroom.errors import InputError, ScoreError
from darkroom.prompting.grammar import parse_pieces
from darkroom.request.render_request import RenderRequest
from darkroom.scores.score_files import ClipFile, HeadFile, read_score_file

if TYPE_CHECKING:
    import torch

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures (OpenAI's clip.py)."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A configured score: its file, for a head the name of its CLIP, and a CLIP's activation."""

    path: Path
    clip: str | None = None
    activation: str = "quick_gelu"


def read_scorers(text: str, folder: Path) -> dict[str, Scorer]:
    """The scorers that `--scores` names, with their files in `folder`. Raises InputError (E-INPUT)."""
    try:
        given = json.loads(text)
        return {
            name: Scorer(folder / f"{name}.safetensors", each.get("clip"), each.get("activation") or "quick_gelu")
            for name, each in given.items()
        }
    except (ValueError, AttributeError):
        raise InputError("--scores", shorten(text), "isn't JSON of scores", "write '{\"NAME\": {}}'") from None


def prompt_text(request: RenderRequest) -> str:
    """A picture's prompt as a person would read it: without weights, brackets, LoRA tags and BREAK, as it ends."""
    timeline = request.timelines[0]
    pieces = parse_pieces(timeline.texts[-1] if timeline is not None else "")
    return " ".join(" ".join(piece.text for piece in pieces if not piece.is_break).split())


def score_picture(image: Image.Image, prompt: str, scorers: Mapping[str, Scorer]) -> dict[str, float]:
    """The scores of a picture by name, rounded to six digits behind the point.

    A CLIP's is 100 · max(cosine, 0) of the embeddings of picture and prompt (CLIPScore: Hessel et al. 2021, arXiv:2104.08718,
    scaled as torchmetrics does); of the prompt it reads the first 75 tokens. A head's is the number that it gives for the
    picture's embedding of length 1. Raises ScoreError (E-SCORE) for files of another kind or that don't fit each other.
    """
    import torch

    torch.set_num_threads(1)
    files = {name: read_score_file(scorer.path, name) for name, scorer in scorers.items()}
    clips = {name: file for name, file in files.items() if isinstance(file, ClipFile)}
    for name, scorer in scorers.items():
        _check_kind(name, scorer, files)
    found: dict[str, float] = {}
    with torch.inference_mode():
        for name, clip in clips.items():
            model = _load_clip(name, scorers[name], clip)
            embedding = _embed_image(model, image)
            found[name] = 100 * max(float((embedding * _embed_text(model, prompt)).sum()), 0.0)
            for head, scorer in scorers.items():
                if scorer.clip == name:
                    found[head] = _apply(scorer.path, files[head], embedding)
    for name, value in found.items():
        if not math.isfinite(value):
            raise ScoreError("score", name, "gives no finite number: its weights hold NaN or Inf", "download it again")
    return {name: round(found[name], 6) for name in scorers}


def _check_kind(name: str, scorer: Scorer, files: Mapping[str, ClipFile | HeadFile]) -> None:
    file = files[name]
    if isinstance(file, ClipFile):
        if scorer.clip is not None:
            raise ScoreError("score", name, "is a CLIP itself", f"leave out scores.{name}.clip")
        return
    if scorer.clip is None:
        why = "is a head on the image embeddings of a CLIP, and none is named"
        raise ScoreError("score", name, why, f"name the one that it was trained on: scores.{name}.clip")
    clip = files.get(scorer.clip)
    if not isinstance(clip, ClipFile) or clip.width != file.width:
        has = f"gives {clip.width}" if isinstance(clip, ClipFile) else "is no CLIP"
        why = f"needs embeddings of {file.width} numbers, and '{scorer.clip}' {has}"
        raise ScoreError("score", name, why, "name the CLIP that it was trained on, such as OpenAI's ViT-L/14")


def _load_clip(name: str, scorer: Scorer, file: ClipFile) -> Any:
    import torch
    from safetensors.torch import load_file
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.modeling_clip import CLIPModel

    towers = {key: {**file.config[key], "hidden_act": scorer.activation} for key in ("text_config", "vision_config")}
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**{**file.config, **towers}))
    weights = {key: each.float() for key, each in load_file(scorer.path).items() if not key.endswith("position_ids")}
    wanted = {key: each.shape for key, each in model.state_dict().items() if not key.endswith("position_ids")}
    wrong = [
        key
        for key in sorted(wanted.keys() | weights.keys())
        if key not in wanted or key not in weights or wanted[key] != weights[key].shape
    ]
    if wrong:
        why = f"is no complete CLIP: {len(wrong)} of its tensors are missing, left over or of another shape, such as '{wrong[0]}'"
        raise ScoreError("score", name, why, "use a CLIP's model.safetensors of transformers")
    model.load_state_dict(weights, strict=False, assign=True)
    for tower in (model.text_model, model.vision_model):
        embeddings = tower.embeddings
        count = embeddings.position_embedding.num_embeddings
        embeddings.register_buffer("position_ids", torch.arange(count).expand((1, -1)), persistent=False)
    return model.eval()


def _embed_image(model: Any, image: Image.Image) -> torch.Tensor:
    """The picture's embedding of length 1. The shorter edge is fitted, and the middle of the longer one is taken."""
    import numpy as np
    import torch

    edge = model.config.vision_config.image_size
    scale = edge / min(image.size)
    size = (max(edge, int(image.width * scale)), max(edge, int(image.height * scale)))
    left, top = (size[0] - edge) // 2, (size[1] - edge) // 2
    fitted = image.convert("RGB").resize(size, Image.Resampling.BICUBIC).crop((left, top, left + edge, top + edge))
    mean, deviation = (np.array(each, dtype=np.float32) for each in (_MEAN, _DEVIATION))
    values = (np.asarray(fitted, dtype=np.float32) / np.float32(255) - mean) / deviation
    pixels = torch.from_numpy(values).permute(2, 0, 1)[None]
    return _normalise(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))


def _embed_text(model: Any, prompt: str) -> torch.Tensor:
    tokens = _tokenizer()(prompt, truncation=True, max_length=77, padding="max_length", return_tensors="pt")
    output = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return _normalise(model.text_projection(output.pooler_output))


def _normalise(embedding: torch.Tensor) -> torch.Tensor:
    return embedding / embedding.norm(dim=-1, keepdim=True)


def _tokenizer() -> Any:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    from darkroom.checkpoint.small_files import EOS, tokenizer_files

    with tempfile.TemporaryDirectory() as folder:
        for name, data in tokenizer_files(EOS).items():
            Path(folder, name).write_bytes(data)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _apply(path: Path, file: ClipFile | HeadFile, embedding: torch.Tensor) -> float:
    from safetensors.torch import load_file

    weights = load_file(path)
    if isinstance(file, HeadFile):
        for weight, bias in file.layers:
            embedding = embedding @ weights[weight].float().T + weights[bias].float()
    return float(embedding)
