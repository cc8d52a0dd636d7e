"""Which configured model a picture's is: by hash, by version at Civitai, by name, and never by a hash of nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from darkroom.config import parse_config
from darkroom.replay.foreign import ForeignPicture, ModelReference
from darkroom.replay.model_matching import (
    NOTHING_SHA256,
    KnownModel,
    known_models,
    match_models,
    with_matches,
)
from darkroom.sources import FetchReceipt
from darkroom.sources.receipt import SourceFacts

SHA = hashlib.sha256(b"alpha").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
ALPHA = KnownModel("checkpoint", "alpha", ("alphaXL_v9",), SHA, "123456789abc", "11")
KNOWN = [
    ALPHA,
    KnownModel("checkpoint", "beta", (), OTHER, "aaaaaaaaaaaa"),
    KnownModel("lora", "alpha", (), "f" * 64, "bbbbbbbbbbbb"),
    KnownModel("lora", "broken", (), NOTHING_SHA256, NOTHING_SHA256[:12]),
    KnownModel("lora", "twin", ("same",), None, None),
    KnownModel("lora", "twin-2", ("same",), None, None),
]


def match(kind: str, name: str | None = None, *, origin: str = "", **hashes: str) -> tuple[str | None, str]:
    foreign = ForeignPicture("A1111", {}, (ModelReference(kind, name, hashes, origin=origin),))
    (found,) = match_models(foreign, KNOWN)
    return found.name, found.how


@pytest.mark.parametrize(
    ("given", "how"),
    [
        ({"sha256": SHA}, "SHA-256"),
        ({"sha256": SHA[:10]}, "AutoV2"),
        ({"autov2": SHA[:10]}, "AutoV2"),
        ({"autov3": "123456789abc"}, "AutoV3"),
        ({"autov3": "123456789abc" + "0" * 52}, "AutoV3"),
        ({"autov3": SHA[:12]}, "SHA-256"),
        ({"name": "alpha"}, "name"),
        ({"name": "ALPHA.safetensors"}, "name"),
        ({"name": "sub/folder\\AlphaXL_V9.ckpt"}, "name"),
        ({"name": "renamed", "sha256": SHA[:10]}, "AutoV2"),
        ({"name": "beta", "sha256": SHA[:10]}, "AutoV2"),
        ({"origin": "civitai:11"}, "Civitai"),
    ],
)
def test_a_checkpoint_is_found(given: dict[str, str], how: str) -> None:
    found, said = match("checkpoint", **given)  # type: ignore[arg-type]
    assert found == "alpha"
    assert how in said


def test_hashes_of_nothing_and_short_ones_find_nothing() -> None:
    for digits in ("", NOTHING_SHA256[:12], NOTHING_SHA256[:10], NOTHING_SHA256, SHA[:7], "f" * 4):
        for key in ("sha256", "autov2", "autov3"):
            assert match("lora", "unknown", **{key: digits})[0] is None, (key, digits)
    assert match("lora", "broken", autov3=NOTHING_SHA256[:12]) == ("broken", "name"), "its name is still a name"
    assert "of nothing" in match("lora", "unknown", autov3=NOTHING_SHA256[:12])[1]


def test_a_name_with_another_hash_is_said_and_equal_names_are_not_guessed() -> None:
    found, how = match("checkpoint", "alpha", sha256="0" * 10)
    assert found == "alpha"
    assert f"although its AutoV2 is {SHA[:10]} and the picture's 0000000000" in how
    assert match("lora", "same") == (None, "twin and twin-2 have that name")
    assert match("lora", "alpha")[0] == "alpha", "of its own kind only"
    assert match("vae", "soft", sha256="9" * 10) == (None, "no VAE is configured")
    assert match("checkpoint", "gamma", sha256="9" * 10)[1] == "no checkpoint has the AutoV2 9999999999 or that name"
    assert match("upscaler", "Latent (antialiased)")[0] == "Latent (antialiased)"


def test_names_in_the_settings_become_those_of_the_configuration() -> None:
    settings = {
        "prompt": "charm, <lora:Add Detail:0.5> <lora:kept:te=0.5:unet=1>, charming",
        "negative_prompt": "embedding:charm",
        "loras": [{"name": "Add Detail", "unet": 1.0, "te": 0.5}],
        "vae": "soft",
        "stages": [{"hires": {"upscaler": "4x-UltraSharp", "scale": 2}}],
    }
    models = [
        *(
            ModelReference("lora", name, {"autov3": digits})
            for name, digits in (("Add Detail", "c" * 12), ("kept", ""))
        ),
        ModelReference("embedding", "charm", {"sha256": "d" * 10}),
        ModelReference("vae", "soft"),
        ModelReference("upscaler", "4x-UltraSharp"),
    ]
    known = [
        KnownModel("lora", "detail", (), None, "c" * 12),
        KnownModel("embedding", "ti.v2", (), "d" * 64),
        KnownModel("upscaler", "ultra", ("4x-UltraSharp",)),
    ]
    foreign = ForeignPicture("A1111", settings, tuple(models))
    made, left = with_matches(foreign, match_models(foreign, known))
    assert made["prompt"] == "ti.v2, <lora:detail:0.5> <lora:kept:te=0.5:unet=1>, charming"
    assert made["negative_prompt"] == "embedding:ti.v2"
    assert made["loras"] == [{"name": "detail", "unet": 1.0, "te": 0.5}]
    assert made["stages"] == [{"hires": {"upscaler": "ultra", "scale": 2}}]
    assert "vae" not in made and left[0].field == "VAE"
    assert settings["vae"] == "soft", "the picture stays as it is"


def test_what_is_known_comes_from_the_configuration_and_the_receipts(tmp_path: Path) -> None:
    config = parse_config(
        {
            "checkpoints": {
                "alpha": {"source": "files/alphaXL_v9.safetensors"},
                "pinned": {"source": "civitai:5@77", "sha256": OTHER.upper()},
                "hub": {"source": "hf:owner/model@main:sub/hubmodel.safetensors"},
            },
            "loras": {"Add Detail": {"source": "x.safetensors"}},
        }
    )
    receipts = {
        "checkpoints/alpha": ("files/alphaXL_v9.safetensors", SHA, None),
        "checkpoints/pinned": ("civitai:5@77", SHA, None),  # other bytes than those that are asked for now
        "loras/Add%20Detail": ("civitai:6@88", "e" * 64, SourceFacts(version="88")),
        "loras/forgotten": ("y.safetensors", "1" * 64, None),
    }
    for name, (source, sha256, facts) in receipts.items():
        path = tmp_path / f"{name}.receipt.json"
        path.parent.mkdir(exist_ok=True)
        more = {"title": None, "architecture": None, "autov2": sha256[:10], "autov3": "abcdefabcdef"}
        FetchReceipt(source=source, size=1, sha256=sha256, facts=facts, **more).write(path)
    (tmp_path / "loras/damaged.receipt.json").write_text("{")
    found = {(each.kind, each.name): each for each in known_models(tmp_path, config)}
    assert found["checkpoint", "alpha"].sha256 == SHA
    assert found["checkpoint", "alpha"].also == ("alphaXL_v9",)
    assert (found["checkpoint", "pinned"].sha256, found["checkpoint", "pinned"].version) == (OTHER, "77")
    assert found["checkpoint", "pinned"].autov3 is None
    assert (found["lora", "Add Detail"].autov3, found["lora", "Add Detail"].version) == ("abcdefabcdef", "88")
    assert ("lora", "forgotten") not in found, "a sheet that named it would be refused"
    assert ("lora", "forgotten") in {(each.kind, each.name) for each in known_models(tmp_path)}
