"""C2PA signatures with a certificate made here, verified by C2PA's own reader."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from darkroom.config_output import C2paConfig
from darkroom.errors import ConfigError
from darkroom.pictures.formats import FORMATS, PNG, PictureFormat, convert_png, read_texts
from darkroom.pictures.marking import GENERATED, SOURCES
from darkroom.pictures.signing import check_signer, identify_signer, sign_picture
from tests.fixtures.certificates import write_certificate


@pytest.fixture
def config(tmp_path: Path) -> C2paConfig:
    return C2paConfig(**write_certificate(tmp_path))


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_every_format_is_signed_and_verified(kind: PictureFormat, config: C2paConfig) -> None:
    c2pa = pytest.importorskip("c2pa")
    texts = {"parameters": "a cat\nSteps: 2", "darkroom": '{"request":{}}'}
    data = convert_png(PNG.encode(Image.linear_gradient("L").convert("RGB"), texts), kind)
    signed = sign_picture(data, kind, config, GENERATED, "cat")
    reader = c2pa.Reader(kind.mime_type, io.BytesIO(signed))
    assert reader.get_validation_state() == "Valid"  # it would be Trusted with a certificate of C2PA's list
    told = json.loads(reader.json())
    found = told["manifests"][told["active_manifest"]]["assertions"]
    (action,) = next(each for each in found if each["label"] == "c2pa.actions.v2")["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", SOURCES + GENERATED)
    assert action["softwareAgent"]["name"] == "Darkroom"
    kind.check(signed, "x")
    assert read_texts(signed) == texts
    key = Path(config.key).read_bytes().splitlines()[1]
    assert key not in signed
    spoilt = bytearray(signed)
    spoilt[signed.rindex(b"IDAT") + 40 if kind is PNG else -40] ^= 1
    try:
        state = c2pa.Reader(kind.mime_type, io.BytesIO(bytes(spoilt))).get_validation_state()
    except c2pa.C2paError:
        state = "Invalid"
    assert state == "Invalid"


def test_what_cannot_sign_is_told_and_the_key_is_not(config: C2paConfig, tmp_path: Path) -> None:
    pytest.importorskip("c2pa")
    check_signer(config)
    other = write_certificate(tmp_path / "other")
    secret = Path(other["key"]).read_text().splitlines()[1]
    (tmp_path / "locked.key").write_text(f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{secret}\n")
    (tmp_path / "old.key").write_text(f"-----BEGIN EC PRIVATE KEY-----\n{secret}\n")
    (tmp_path / "broken.key").write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}x\n-----END PRIVATE KEY-----\n")
    for changes, words in (
        ({"key": str(tmp_path / "no.key")}, "c2pa.key .* No such file"),
        ({"certificate": config.key}, "holds no certificate as PEM"),
        ({"key": str(tmp_path / "locked.key")}, "has a passphrase"),
        ({"key": str(tmp_path / "old.key")}, "PKCS#8"),
        ({"key": str(tmp_path / "broken.key")}, "can't sign"),
        ({"key": other["key"]}, "can't sign"),
        ({"algorithm": "ps256"}, "can't sign"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            check_signer(config.model_copy(update=changes))
        assert secret not in str(raised.value) and "Hint: " in str(raised.value)


def test_another_certificate_counts_as_a_change_and_another_place_does_not(config: C2paConfig, tmp_path: Path) -> None:
    moved = tmp_path / "moved.pem"
    moved.write_bytes(Path(config.certificate).read_bytes())
    assert identify_signer(config.model_copy(update={"certificate": str(moved)})) == identify_signer(config)
    other = C2paConfig(**write_certificate(tmp_path / "other"))
    assert identify_signer(other) != identify_signer(config)


def test_without_the_extra_the_error_says_what_to_install(config: C2paConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ConfigError, match=r"E-CONFIG c2pa: .* pip install 'darkroom\[c2pa\]'"):
        check_signer(config)
