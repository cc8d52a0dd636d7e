"""ComfyUI's graphs: plain ones in all their spellings, and those that are refused by the name of what isn't understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import ImageError
from darkroom.prompting.grammar import parse_pieces
from darkroom.replay.foreign import ForeignPicture
from darkroom.replay.readers import read_foreign
from tests.fixtures.foreign_pictures import GRAPH, graph, save_exif, save_png, user_comment


def read(made: Any, tmp_path: Path) -> ForeignPicture:
    picture = read_foreign(save_png(tmp_path / "x.png", {"prompt": json.dumps(made), "workflow": "{}"}))
    assert picture is not None
    return picture


def test_a_plain_graph(tmp_path: Path) -> None:
    picture = read(GRAPH, tmp_path)
    assert picture.settings == {
        "prompt": r"a fox (snow:1.3)( x:1.5) \[calm\]",
        "negative_prompt": "blurry, embedding:charm",
        "width": 64,
        "height": 64,
        "steps": 20,
        "cfg_scale": 5.5,
        "seed": 7,
        "sampler": "DPM++ 2M",
        "schedule": "Karras",
        "loras": [{"name": "outline", "unet": 0.8, "te": 0.5}],
        "emphasis": "comfy",
    }
    assert [(each.kind, each.name) for each in picture.models] == [
        ("embedding", "charm"),
        ("lora", "outline"),
        ("checkpoint", "alpha"),
    ]
    assert picture.unused == picture.differs == ()


def test_weights_mean_what_they_mean_there(tmp_path: Path) -> None:
    """A number inside replaces the weight outside, and other tools' words are words."""
    prompt = str(read(GRAPH, tmp_path).settings["prompt"])
    assert [(each.text, round(each.weight, 3)) for each in parse_pieces(prompt)] == [
        ("a fox ", 1.0),
        ("snow", 1.3),
        (" x", 1.5),
        (" [calm]", 1.0),
    ]
    text = r"a ((b)) AND [c:d:0.5] BREAK \(e\) <lora:f:1> g:1.2) (h"
    prompt = str(read(graph(node_6={"text": text}), tmp_path).settings["prompt"])
    pieces = [(each.text, round(each.weight, 3), each.is_break) for each in parse_pieces(prompt)]
    assert pieces == [
        ("a ", 1.0, False),
        ("b", 1.21, False),
        (" and [c:d:0.5] break (e) < lora:f:1> g:1.2) (h", 1.0, False),
    ]


def test_the_other_places_of_a_graph(tmp_path: Path) -> None:
    text = json.dumps(GRAPH)
    webp = save_exif(tmp_path / "a.webp", tags={0x0110: f"prompt:{text}", 0x010F: "workflow:{}"})
    jpeg = save_exif(tmp_path / "b.jpg", tags={0x010F: f"Prompt: {text}", 0x010E: "Workflow: {}"})
    civitai = save_exif(
        tmp_path / "c.jpg", user_comment(json.dumps({**GRAPH, "extra": {"airs": []}, "extraMetadata": "{}"}))
    )
    for path in (webp, jpeg, civitai):
        picture = read_foreign(path)
        assert picture is not None
        assert picture.settings["seed"] == 7


def test_values_come_from_other_nodes(tmp_path: Path) -> None:
    made = graph(
        node_3={"seed": ["20", 0], "steps": ["21", 0]},
        node_6={"text": ["22", 0]},
        node_20={"class_type": "PrimitiveInt", "inputs": {"value": 99}},
        node_21={"class_type": "Reroute", "inputs": {"": ["25", 0]}},
        node_22={
            "class_type": "StringConcatenate",
            "inputs": {"string_a": ["23", 0], "string_b": "a fox", "delimiter": ", "},
        },
        node_23={"class_type": "PrimitiveStringMultiline", "inputs": {"value": "best\nquality"}},
        node_25={"class_type": "PrimitiveInt", "inputs": {"value": 12}},
    )
    settings = read(made, tmp_path).settings
    assert (settings["seed"], settings["steps"], settings["prompt"]) == (99, 12, "best\nquality, a fox")


def test_the_other_samplers(tmp_path: Path) -> None:
    shared = {"model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    advanced = {
        "class_type": "KSamplerAdvanced",
        "inputs": {
            "add_noise": "enable",
            "noise_seed": 8,
            "steps": 15,
            "cfg": 4,
            "sampler_name": "dpmpp_2m_sde_gpu",
            "scheduler": "exponential",
            "start_at_step": 0,
            "end_at_step": 10000,
            "return_with_leftover_noise": "disable",
            **shared,
        },
    }
    found = read(graph(node_3=advanced), tmp_path).settings
    assert (found["seed"], found["steps"], found["sampler"], found["schedule"]) == (
        8,
        15,
        "DPM++ 2M SDE",
        "Exponential",
    )
    custom = graph(
        node_3={
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["30", 0],
                "guider": ["31", 0],
                "sampler": ["32", 0],
                "sigmas": ["33", 0],
                "latent_image": ["5", 0],
            },
        },
        node_30={"class_type": "RandomNoise", "inputs": {"noise_seed": 9}},
        node_31={
            "class_type": "CFGGuider",
            "inputs": {"cfg": 3, **{k: shared[k] for k in ("model", "positive", "negative")}},
        },
        node_32={"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler_ancestral"}},
        node_33={
            "class_type": "BasicScheduler",
            "inputs": {"scheduler": "beta", "steps": 6, "denoise": 1, "model": ["10", 0]},
        },
    )
    picture = read(custom, tmp_path)
    found = picture.settings
    assert (found["seed"], found["steps"], found["sampler"], found["schedule"]) == (9, 6, "Euler a", "Beta")
    assert found["cfg_scale"] == 3
    assert "adds noise" in picture.differs[0]


def test_loras_that_change_only_the_model_clip_skip_and_a_vae(tmp_path: Path) -> None:
    made = graph(
        node_3={"model": ["11", 0]},
        node_6={"clip": ["12", 0]},
        node_7={"clip": ["12", 0]},
        node_8={"vae": ["13", 0]},
        node_11={
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"lora_name": "b.safetensors", "strength_model": 0.4, "model": ["10", 0]},
        },
        node_12={"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -3, "clip": ["10", 1]}},
        node_13={"class_type": "VAELoader", "inputs": {"vae_name": "soft.safetensors"}},
    )
    settings = read(made, tmp_path).settings
    assert settings["loras"] == [{"name": "b", "unet": 0.4, "te": 0.0}, {"name": "outline", "unet": 0.8, "te": 0.5}]
    assert (settings["clip_skip"], settings["vae"]) == (2, "soft")
    made["12"]["inputs"]["stop_at_clip_layer"] = -2
    assert "clip_skip" not in read(made, tmp_path).settings, "SDXL's usual layer"
    made["12"]["inputs"]["stop_at_clip_layer"] = -1
    assert read(made, tmp_path).unused[0].field == "stop_at_clip_layer"


def test_sdxl_prompts_for_each_encoder(tmp_path: Path) -> None:
    inputs = {"text_l": "a fox", "text_g": "a (red:1.2) fox", "width": 128, "height": 64, "clip": ["10", 1]}
    picture = read(graph(node_6={"class_type": "CLIPTextEncodeSDXL", "inputs": inputs}), tmp_path)
    assert (picture.settings["prompt"], picture.settings["prompt_2"]) == ("a fox", "a (red:1.2) fox")
    assert picture.unused[0].value == "width 128"


def test_only_the_picture_that_is_saved_counts(tmp_path: Path) -> None:
    """Another sampler that leads nowhere, or to a preview, changes nothing."""
    other = {**GRAPH["3"], "inputs": {**GRAPH["3"]["inputs"], "seed": 1}}
    made = graph(
        node_40=other,
        node_41={"class_type": "VAEDecode", "inputs": {"samples": ["40", 0], "vae": ["4", 2]}},
        node_42={"class_type": "PreviewImage", "inputs": {"images": ["41", 0]}},
    )
    assert read(made, tmp_path).settings["seed"] == 7
    made["42"]["class_type"] = "SaveImage"
    with pytest.raises(ImageError, match="saves several pictures"):
        read(made, tmp_path)


def test_what_is_done_afterwards_and_batches_are_listed(tmp_path: Path) -> None:
    made = graph(
        node_5={"batch_size": 4},
        node_9={"images": ["20", 0]},
        node_20={"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["21", 0], "image": ["8", 0]}},
        node_21={"class_type": "UpscaleModelLoader", "inputs": {"model_name": "4x.pth"}},
    )
    assert {each.field for each in read(made, tmp_path).unused} == {"batch_size", "ImageUpscaleWithModel"}


REFUSED = {
    "img2img": (
        graph(node_5={"class_type": "VAEEncode", "inputs": {"pixels": ["50", 0]}}),
        "begins with node 5 (VAEEncode)",
    ),
    "a second pass": (
        graph(
            node_3={"latent_image": ["51", 0]},
            node_51={"class_type": "LatentUpscaleBy", "inputs": {"samples": ["52", 0]}},
            node_52=GRAPH["3"],
        ),
        "begins with node 51 (LatentUpscaleBy)",
    ),
    "ControlNet": (
        graph(
            node_3={"positive": ["60", 0]},
            node_60={"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0]}},
        ),
        "node 60 (ControlNetApply)",
    ),
    "an unknown model node": (
        graph(node_3={"model": ["61", 0]}, node_61={"class_type": "IPAdapter", "inputs": {"model": ["10", 0]}}),
        "node 61 (IPAdapter)",
    ),
    "an unknown text": (
        graph(node_6={"text": ["62", 0]}, node_62={"class_type": "LLMPrompt", "inputs": {}}),
        "node 62 (LLMPrompt)",
    ),
    "an unknown sampler": (graph(node_3={"class_type": "FancySampler"}), "node 3 (FancySampler)"),
    "some of the steps": (
        graph(node_3={"class_type": "KSamplerAdvanced", "inputs": {"steps": 20, "end_at_step": 10}}),
        "only some of the steps",
    ),
    "a circle of models": (graph(node_10={"model": ["10", 0]}), "leads back to node 10"),
    "a longer circle": (
        graph(
            node_10={"model": ["70", 0]},
            node_70={**GRAPH["10"], "inputs": {**GRAPH["10"]["inputs"], "model": ["10", 0]}},
        ),
        "leads back to",
    ),
    "a circle of texts": (
        graph(
            node_6={"text": ["71", 0]},
            node_71={"class_type": "StringConcatenate", "inputs": {"string_a": ["71", 0], "string_b": ""}},
        ),
        "leads back to node 71",
    ),
    "a circle of values": (
        graph(
            node_3={"seed": ["72", 0]},
            node_72={"class_type": "PrimitiveInt", "inputs": {"value": ["73", 0]}},
            node_73={"class_type": "PrimitiveInt", "inputs": {"value": ["72", 0]}},
        ),
        "leads back to",
    ),
    "a circle of reroutes": (
        graph(
            node_3={"model": ["74", 0]},
            node_74={"class_type": "Reroute", "inputs": {"": ["75", 0]}},
            node_75={"class_type": "Reroute", "inputs": {"": ["74", 0]}},
        ),
        "leads back to",
    ),
    "a missing node": (graph(node_3={"model": ["99", 0]}), "lacks the node 99"),
    "a missing input": (graph(node_8={"samples": None}), "lacks the input 'samples' of node 8"),
    "another CLIP": (
        graph(node_6={"clip": ["80", 0]}, node_80={"class_type": "DualCLIPLoader", "inputs": {}}),
        "node 80 (DualCLIPLoader)",
    ),
    "unequal text encoders": (graph(node_7={"clip": ["4", 1]}), "different text encoders"),
    "nothing that saves": ({"3": GRAPH["3"]}, "no node that saves"),
    "no graph": ({"1": {"2": {"class_type": "KSampler"}}}, "no ComfyUI graph"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_by_name(name: str, tmp_path: Path) -> None:
    made, part = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        read(made, tmp_path)
    assert part in str(caught.value)
    assert "Hint:" in str(caught.value)


def test_values_of_any_kind(tmp_path: Path) -> None:
    """NaN, as ComfyUI writes it, seeds of 64 bits, and inputs of other types than they should be."""
    made = graph(node_3={"cfg": float("nan"), "seed": 2**64 - 1, "steps": True, "sampler_name": 5, "denoise": 0.5})
    text = json.dumps(made)
    assert "NaN" in text
    picture = read(made, tmp_path)
    assert {each.field for each in picture.unused} == {"cfg", "seed", "steps", "sampler", "schedule", "denoise"}
    assert read(graph(node_6={"text": 5}, node_10={"strength_model": "x"}), tmp_path).settings["prompt"] == ""


def test_an_independent_reader_agrees(tmp_path: Path) -> None:
    from sd_parsers import ParserManager

    links = [
        [1, int(source), 0, int(target), 0, "X"]
        for target, node in GRAPH.items()
        for source, _ in (value for value in node["inputs"].values() if isinstance(value, list))
    ]
    path = save_png(tmp_path / "x.png", {"prompt": json.dumps(GRAPH), "workflow": json.dumps({"links": links})})
    other, picture = ParserManager().parse(path), read_foreign(path)
    assert other is not None and picture is not None
    (sampler,) = other.samplers
    assert sampler.parameters["seed"] == picture.settings["seed"]
    assert sampler.parameters["steps"] == picture.settings["steps"]
    assert sampler.name == "dpmpp_2m"
    assert [each.value for each in sampler.negative_prompts] == [picture.settings["negative_prompt"]]
