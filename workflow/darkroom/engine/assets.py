"""The assets of a picture made ready: its LoRAs applied to the weights, its embeddings read, its VAE loaded."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.base.hashing import autov2
from darkroom.engine.library import Asset, Library
from darkroom.engine.load import load_vae
from darkroom.engine.loras import LoraWeights
from darkroom.engine.placement import Placement
from darkroom.engine.rendered import UsedAsset
from darkroom.engine.weights import TensorFile, WeightFiles
from darkroom.errors import LoraError
from darkroom.loras import LoraFile, read_lora
from darkroom.prompting.embeddings import Embedding, read_embedding
from darkroom.request.render_request import RenderRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture's assets, ready for use.

    `text_state` differs wherever prompts are encoded differently; `used` is for the metadata.
    """

    vae: Any
    embeddings: Mapping[str, Embedding]
    text_state: Hashable
    used: tuple[UsedAsset, ...]


class Assets:
    """Prepares a pipeline for requests; the weights without LoRAs come from the model's `files`.

    Of the VAEs from their own files the last one is kept; `dtype` is the engine's number format.
    """

    def __init__(self, pipeline: Any, files: WeightFiles, dtype: str, library: Library, placement: Placement) -> None:
        self._pipeline = pipeline
        self._model = files.model
        self._dtype = dtype
        self._library = library
        self._weights = LoraWeights(pipeline, files, placement.clear)
        self._loras: dict[str, LoraFile] = {}
        self._vae: tuple[str, Any] | None = None

    def prepare(self, request: RenderRequest) -> Prepared:
        """Find, read and apply the assets that the request names.

        Raises LoraError (E-LORA), EmbeddingError (E-EMBEDDING), RequestError (E-REQUEST) and the CheckpointErrors;
        the weights are then what they were before or the model's own, never something in between.
        """
        loras = [(self._library.find("loras", use.name), use) for use in request.all_loras]
        embeddings = [self._library.find("embeddings", name) for name in request.embeddings]
        chosen = [(self._read_lora(asset), use.unet, use.te) for asset, use in loras]
        read = {asset.name: read_embedding(asset.path, asset.name) for asset in embeddings}
        read |= _bundled([lora for lora, _, _ in chosen], read)
        used = [UsedAsset("loras", lora.name, lora.sha256, lora.short_hash) for lora, _, _ in chosen]
        used += [UsedAsset(a.kind, a.name, a.sha256, a.sha256[:12]) for a in embeddings]
        used += self.used_vae(request)
        decoder = self.vae(request)
        self._weights.use(chosen)
        files = (*(asset.sha256 for asset in embeddings), *(lora.sha256 for lora, _, _ in chosen if lora.embeddings))
        state = (self._weights.text_key, files)
        return Prepared(decoder, read, state, tuple(used))

    def vae(self, request: RenderRequest) -> Any:
        """The request's VAE. Raises RequestError (E-REQUEST) and the CheckpointErrors."""
        if request.vae is None:
            return self._pipeline.vae
        return self._own_vae(self._library.find("vaes", request.vae))

    def used_vae(self, request: RenderRequest) -> tuple[UsedAsset, ...]:
        """The request's VAE for the metadata, if it isn't the checkpoint's."""
        if request.vae is None:
            return ()
        asset = self._library.find("vaes", request.vae)
        return (UsedAsset(asset.kind, asset.name, asset.sha256, autov2(asset.sha256)),)

    def _read_lora(self, asset: Asset) -> LoraFile:
        known = self._loras.get(asset.name)
        if known is None or (known.path, known.stamp) != (asset.path, asset.stamp):
            known = self._loras[asset.name] = read_lora(asset.path, asset.name)
        return known

    def _own_vae(self, asset: Asset) -> Any:
        if self._vae is None or self._vae[0] != asset.sha256:
            self._vae = None  # two at once would need the memory of both
            self._vae = (asset.sha256, load_vae(asset.path, self._model, self._dtype))
        return self._vae[1]


def _bundled(loras: Iterable[LoraFile], others: Mapping[str, Embedding]) -> dict[str, Embedding]:
    """The embeddings that LoRA files bring along, by the words that stand for them, whatever the LoRAs' weights.

    Raises LoraError (E-LORA) for a word that stands for another embedding in this picture, letter case aside.
    """
    found: dict[str, Embedding] = {}
    known = {name.lower(): embedding for name, embedding in others.items()}
    for lora in loras:
        for bundled in lora.embeddings:
            file = TensorFile(lora.path, lora.data_offset)
            first, second = (file.read(info).float() for info in bundled.vectors)
            other = known.setdefault(bundled.name.lower(), Embedding(bundled.name, (first, second)))
            if not all(a.shape == b.shape and a.equal(b) for a, b in zip(other.vectors, (first, second), strict=True)):
                why = (
                    f"bundles the embedding '{bundled.name[:120]}', a word that stands for another one in this picture"
                )
                raise LoraError("LoRA", lora.name, why, "leave one of the two out of this picture")
            if other.name == bundled.name and bundled.name not in others:
                found[bundled.name] = other
    return found
