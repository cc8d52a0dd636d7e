"""ComfyUI: the graph in a PNG's text `prompt`, or in EXIF of a WebP or JPEG, where it is a plain txt2img graph.

The picture's sampler is followed from what saves the picture, so that other samplers of the graph mean nothing. What is plain is
in the tables here; any other node on the way is refused by name (nodes.py and comfy_extras/ of ComfyUI have the inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darkroom.replay.foreign import Draft, Reader, model_name, number, whole
from darkroom.replay.other_grammars import comfy_pieces, find_comfy_embeddings, write_pieces
from darkroom.replay.picture_texts import PictureTexts, parse_json, parse_object
from darkroom.replay.readers.comfy_graph import Graph, Node, is_link
from darkroom.request.render_request import MAX_SEED

TOOL = "ComfyUI"
_AFTER = {
    **dict.fromkeys(("ImageUpscaleWithModel", "ImageScale", "ImageScaleBy", "ImageSharpen", "ImageBlur"), "image"),
    "ImageScaleToTotalPixels": "image",
}
"""Nodes that change a finished picture, and the input that goes on to it."""
_DECODERS = ("VAEDecode", "VAEDecodeTiled")
_MODEL = {
    **dict.fromkeys(("LoraLoader", "LoraLoaderModelOnly", "Power Lora Loader (rgthree)"), "model"),
    **dict.fromkeys(("FreeU", "FreeU_V2", "RescaleCFG", "ModelSamplingDiscrete"), "model"),
}
_CLIP = {**dict.fromkeys(("LoraLoader", "Power Lora Loader (rgthree)", "CLIPSetLastLayer"), "clip")}
_CHECKPOINTS = ("CheckpointLoaderSimple", "CheckpointLoader")
_CLASS = '"class_type"'
_SAMPLERS = {"ddim": "Euler"}
"""ComfyUI's ddim is its euler with the same noise levels (comfy/samplers.py)."""


@dataclass(frozen=True, slots=True)
class _Sampling:
    """What a sampler node of any kind says, each input as the node it belongs to and its name there."""

    node: Node
    seed: Any
    steps: Any
    cfg: Any
    sampler: Any
    scheduler: Any
    denoise: Any
    model: tuple[Node, str]
    positive: tuple[Node, str]
    negative: tuple[Node, str] | None


def detect(found: PictureTexts) -> bool:
    """True for a graph in one of the places where ComfyUI and its nodes write it."""
    return bool(_graph_text(found))


def read(found: PictureTexts) -> Draft:
    """The graph's settings. Raises ImageError (E-IMAGE) that names the node which isn't understood."""
    graph = Graph(parse_json(_graph_text(found), "prompt", found.path), found.path)
    draft = Draft(TOOL)
    read_graph(graph, draft)
    return draft


def _graph_text(found: PictureTexts) -> str:
    """The graph's JSON; empty without one."""
    if _CLASS in found.texts.get("prompt", ""):
        return found.texts["prompt"]
    for name in ("Make", "Model", "ImageDescription", "Artist", "Software"):
        text = found.exif.get(name, "")
        if text[:7].lower() == "prompt:":
            return text[7:].strip()
    inner = parse_object(found.user_comment)
    is_graph = any(isinstance(each, dict) and "class_type" in each for each in inner.values())
    return found.user_comment if is_graph else ""


def read_graph(graph: Graph, draft: Draft) -> None:
    """Fill the draft with a graph's settings. Raises ImageError (E-IMAGE)."""
    decoder = _find_decoder(graph, draft)
    sampling = _read_sampler(graph, decoder)
    _take_latent(graph, draft, sampling.node)
    _take_sampling(draft, sampling)
    checkpoint = _take_model(graph, draft, decoder, sampling)
    draft.refer("checkpoint", graph.value(checkpoint, "ckpt_name"))
    draft.settings["emphasis"] = "comfy"


def _find_decoder(graph: Graph, draft: Draft) -> Node:
    """The node that decodes the picture which is saved."""
    ends = graph.ends()
    if not ends:
        raise graph.refusal("has no node that saves a picture")
    found: dict[str, tuple[Node, list[Node]]] = {}
    for end in ends:
        name = "images" if is_link(end.inputs.get("images")) else "image"
        passed, decoder = graph.chain(end, name, _AFTER)
        found[decoder.id] = (decoder, passed)
    if len(found) > 1:
        names = ", ".join(str(decoder) for decoder, _ in found.values())
        raise graph.refusal(f"saves several pictures ({names}) and does not say which one this is")
    ((decoder, passed),) = found.values()
    if decoder.kind not in _DECODERS:
        raise graph.unknown(decoder, "before the picture is saved")
    for node in passed:
        draft.leave(node.kind, _plain_inputs(node), "was done to the finished picture")
    if decoder.kind == "VAEDecodeTiled":
        draft.differs.append("the picture was decoded in tiles, which differs a little from decoding it as a whole")
    return decoder


def _plain_inputs(node: Node) -> str:
    return ", ".join(f"{key} {value}" for key, value in node.inputs.items() if not is_link(value))


def _read_sampler(graph: Graph, decoder: Node) -> _Sampling:
    node, _ = graph.linked(decoder, "samples")
    if node.kind == "KSampler":
        get = graph.value
        return _Sampling(
            node,
            get(node, "seed"),
            get(node, "steps"),
            get(node, "cfg"),
            get(node, "sampler_name"),
            get(node, "scheduler"),
            get(node, "denoise", 1.0),
            (node, "model"),
            (node, "positive"),
            (node, "negative"),
        )
    if node.kind == "KSamplerAdvanced":
        return _read_advanced(graph, node)
    if node.kind in ("SamplerCustom", "SamplerCustomAdvanced"):
        return _read_custom(graph, node)
    raise graph.unknown(node, "as the picture's sampler")


def _read_advanced(graph: Graph, node: Node) -> _Sampling:
    """A KSamplerAdvanced that makes all steps; one that makes only some is a part of several."""
    get = graph.value
    steps, end = get(node, "steps"), get(node, "end_at_step", 10_000)
    is_whole = get(node, "add_noise", "enable") == "enable" and not get(node, "start_at_step", 0)
    is_last = get(node, "return_with_leftover_noise", "disable") == "disable"
    if not is_whole or not is_last or (isinstance(end, int) and isinstance(steps, int) and end < steps):
        raise graph.refusal(f"has {node} that makes only some of the steps")
    return _Sampling(
        node,
        get(node, "noise_seed"),
        steps,
        get(node, "cfg"),
        get(node, "sampler_name"),
        get(node, "scheduler"),
        1.0,
        (node, "model"),
        (node, "positive"),
        (node, "negative"),
    )


def _read_custom(graph: Graph, node: Node) -> _Sampling:
    """SamplerCustom, or SamplerCustomAdvanced with its noise and guider as nodes of their own."""
    get = graph.value
    sampler, _ = graph.linked(node, "sampler")
    sigmas, _ = graph.linked(node, "sigmas")
    kinds = {"KSamplerSelect": get(sampler, "sampler_name"), "SamplerEulerAncestral": "euler_ancestral"}
    if sampler.kind not in kinds:
        raise graph.unknown(sampler, "as the picture's sampler")
    schedules = {
        "BasicScheduler": get(sigmas, "scheduler"),
        "AlignYourStepsScheduler": "ays",
        "SDTurboScheduler": "sgm_uniform",
    }
    if sigmas.kind not in schedules:
        raise graph.unknown(sigmas, "as the picture's noise levels")
    seed: Any
    if node.kind == "SamplerCustom":
        seed, guide = get(node, "noise_seed"), node
        if get(node, "add_noise", True) is not True:
            raise graph.refusal(f"has {node} without noise")
    else:
        noise, _ = graph.linked(node, "noise")
        guide, _ = graph.linked(node, "guider")
        if noise.kind != "RandomNoise":
            raise graph.unknown(noise, "as the picture's noise")
        if guide.kind not in ("CFGGuider", "BasicGuider"):
            raise graph.unknown(guide, "as the picture's guider")
        seed = get(noise, "noise_seed")
    is_basic = guide.kind == "BasicGuider"
    return _Sampling(
        node,
        seed,
        get(sigmas, "steps"),
        1.0 if is_basic else get(guide, "cfg"),
        kinds[sampler.kind],
        schedules[sigmas.kind],
        get(sigmas, "denoise", 1.0),
        (guide, "model"),
        (guide, "conditioning" if is_basic else "positive"),
        None if is_basic else (guide, "negative"),
    )


def _take_latent(graph: Graph, draft: Draft, sampler: Node) -> None:
    latent, _ = graph.linked(sampler, "latent_image")
    if latent.kind != "EmptyLatentImage":
        raise graph.refusal(f"begins with {latent} in place of an empty latent")
    draft.set("width", graph.value(latent, "width"), "width", read=whole)
    draft.set("height", graph.value(latent, "height"), "height", read=whole)
    if (count := graph.value(latent, "batch_size", 1)) != 1:
        draft.leave("batch_size", count, "the metadata doesn't say which of them this is; the first one is taken")


def _take_sampling(draft: Draft, sampling: _Sampling) -> None:
    draft.set("steps", sampling.steps, "steps", read=whole)
    draft.set("cfg_scale", sampling.cfg, "cfg", read=number)
    seed = sampling.seed
    if isinstance(seed, int) and not isinstance(seed, bool) and seed > MAX_SEED:
        draft.leave("seed", seed, f"is larger than {MAX_SEED}, the largest that Darkroom takes")
    else:
        draft.set("seed", seed, "seed", read=whole)
    name = str(sampling.sampler).removesuffix("_gpu")
    draft.set_sampler(_SAMPLERS.get(name, name), sampling.scheduler)
    if name == "uni_pc":
        draft.differs.append("uni_pc is UniPC's variant bh1 there, and bh2 here")
    if name == "dpmpp_sde":
        draft.differs.append("dpmpp_sde evaluates the model twice a step there, and once here")
    denoise = sampling.denoise
    if isinstance(denoise, bool) or not isinstance(denoise, int | float) or denoise <= 0.9999:
        draft.leave("denoise", denoise, "leaves steps out of a picture that begins with nothing")


def _take_model(graph: Graph, draft: Draft, decoder: Node, sampling: _Sampling) -> Node:
    """LoRAs, prompts and VAE; the checkpoint's node. All of them have to come from the same one."""
    patches, checkpoint = graph.chain(*sampling.model, _MODEL)
    if checkpoint.kind not in _CHECKPOINTS:
        raise graph.unknown(checkpoint, "as the picture's model")
    for node in patches:
        _take_patch(graph, draft, node)
    clips = _take_prompts(graph, draft, sampling)
    for chain, loader in clips:
        if loader.id != checkpoint.id:
            raise graph.unknown(loader, "as the text encoders, which aren't those of the checkpoint")
        if [node.id for node in chain] != [node.id for node in clips[0][0]]:
            raise graph.refusal("encodes its two prompts with different text encoders")
    _take_clip_skip(graph, draft, clips[0][0])
    _take_loras(graph, draft, patches, clips[0][0])
    vae, _ = graph.linked(decoder, "vae")
    if vae.kind == "VAELoader":
        name = model_name(graph.value(vae, "vae_name"))
        draft.refer("vae", name)
        draft.set("vae", name, "vae_name")
    elif vae.id != checkpoint.id:
        raise graph.unknown(vae, "as the picture's VAE")
    return checkpoint


def _take_patch(graph: Graph, draft: Draft, node: Node) -> None:
    if node.kind == "FreeU":
        draft.set("freeu", {key: graph.value(node, key) for key in ("b1", "b2", "s1", "s2")}, "FreeU")
    elif node.kind == "RescaleCFG":
        draft.set("cfg_rescale", graph.value(node, "multiplier"), "RescaleCFG", read=number)
        draft.differs.append("RescaleCFG works on the v-prediction there, and on the model's own prediction here")
    elif node.kind == "FreeU_V2":
        draft.leave("FreeU_V2", _plain_inputs(node), "is another FreeU than Darkroom's")
    elif node.kind == "ModelSamplingDiscrete":
        reason = "is of the checkpoint here: set prediction in the configuration"
        draft.leave("ModelSamplingDiscrete", _plain_inputs(node), reason)


def _take_prompts(graph: Graph, draft: Draft, sampling: _Sampling) -> list[tuple[list[Node], Node]]:
    """The two prompts; the chains of text encoders that they were encoded with."""
    clips = []
    for key, place in (("prompt", sampling.positive), ("negative_prompt", sampling.negative)):
        if place is None:
            continue
        node, _ = graph.linked(*place)
        if node.kind == "ConditioningZeroOut" and key == "negative_prompt":
            draft.settings[key] = ""
            draft.differs.append("the negative prompt is all zeros there, and the encoded empty text here")
            continue
        if node.kind == "CLIPTextEncode":
            _take_text(draft, key, graph.value(node, "text"))
        elif node.kind == "CLIPTextEncodeSDXL":
            _take_sdxl(graph, draft, key, node)
        else:
            raise graph.unknown(node, f"as the {key.replace('_', ' ')}")
        clips.append(graph.chain(node, "clip", _CLIP))
    return clips


def _take_sdxl(graph: Graph, draft: Draft, key: str, node: Node) -> None:
    first, second = graph.value(node, "text_l", ""), graph.value(node, "text_g", "")
    _take_text(draft, key, first)
    if second != first:
        _take_text(draft, f"{key}_2", second)
    wanted: dict[str, Any] = {"crop_w": 0, "crop_h": 0}
    for size in ("width", "height"):
        wanted |= {size: draft.settings.get(size), f"target_{size}": draft.settings.get(size)}
    other = {name: value for name, own in wanted.items() if (value := graph.value(node, name, own)) != own}
    if other:
        said = ", ".join(f"{name} {value}" for name, value in other.items())
        draft.leave(f"CLIPTextEncodeSDXL ({key})", said, "Darkroom tells the model the picture's own size, uncropped")


def _take_text(draft: Draft, key: str, text: Any) -> None:
    if not isinstance(text, str):
        draft.leave(key, text, "is no text")
        return
    draft.set(key, text, key, read=lambda given: write_pieces(comfy_pieces(given)))
    for name in find_comfy_embeddings(text):
        draft.refer("embedding", name)


def _take_clip_skip(graph: Graph, draft: Draft, chain: list[Node]) -> None:
    """-2 is SDXL's usual layer; -1, the last one, can't be had. The node nearest to the prompt counts."""
    node = next((node for node in chain if node.kind == "CLIPSetLastLayer"), None)
    if node is None:
        return
    layer = graph.value(node, "stop_at_clip_layer", -1)
    if layer == -1:
        draft.leave("stop_at_clip_layer", layer, "is the text encoders' last layer, which Darkroom doesn't use")
    elif layer != -2:
        draft.set("clip_skip", layer, "stop_at_clip_layer", read=lambda value: -whole(value) - 1)


def _take_loras(graph: Graph, draft: Draft, patches: list[Node], clips: list[Node]) -> None:
    """Each LoRA with its weights, 0 where the chain of the model or of the text encoders doesn't go through it."""
    weights: dict[tuple[str, str], list[Any]] = {}
    for column, (chain, side) in enumerate(((patches, "strength_model"), (clips, "strength_clip"))):
        for node in chain:
            for name, model, clip in _loras_of(graph, node):
                both = weights.setdefault((node.id, name), [0.0, 0.0])
                both[column] = model if side == "strength_model" else clip
    for (_, name), (unet, te) in weights.items():
        if unet != 0 or te != 0:
            draft.add_lora(name, unet, te)


def _loras_of(graph: Graph, node: Node) -> list[tuple[str, Any, Any]]:
    """The names of a node's LoRAs, and their weights for the model and the text encoders."""
    if node.kind in ("LoraLoader", "LoraLoaderModelOnly"):
        model = graph.value(node, "strength_model", 1.0)
        return [(str(graph.value(node, "lora_name")), model, graph.value(node, "strength_clip", 0.0))]
    if node.kind != "Power Lora Loader (rgthree)":
        return []
    found = []
    for each in node.inputs.values():
        if isinstance(each, Mapping) and each.get("on") and each.get("lora"):
            model = each.get("strength", 1.0)
            second = each.get("strengthTwo")
            found.append((str(each["lora"]), model, model if second is None else second))
    return found


COMFYUI = Reader(TOOL, detect, read)
