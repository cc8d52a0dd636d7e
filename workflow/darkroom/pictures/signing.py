"""C2PA signatures of finished files, by the library c2pa-python and a certificate of the user's.

A signature has a random part and, with a server for it, a time stamp: a file that is signed again has other bytes. So only
files that were made of a PNG are signed, never the PNG that a run rendered. The private key is read for each signature and
given to the library; no message of an error names more of it than its file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom import __version__
from darkroom.errors import ConfigError, ImageError
from darkroom.pictures.formats import PNG
from darkroom.pictures.marking import GENERATED, SOURCES

if TYPE_CHECKING:
    from darkroom.config_output import C2paConfig
    from darkroom.pictures.formats import PictureFormat

_NOTHING_FROM_THE_NETWORK = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_INSTALL = "install it: pip install 'darkroom[c2pa]'"


def sign_picture(data: bytes, kind: PictureFormat, config: C2paConfig, source: str, title: str) -> bytes:
    """The file's bytes with a manifest: who signs, what program made it, and from what kind of source.

    `source` is the last part of an address of IPTC's digitalsourcetype. Raises ConfigError (E-CONFIG) for a certificate or
    a key that can't be used, and ImageError (E-IMAGE) if the library refuses the file.
    """
    c2pa = _library()
    agent = {"name": "Darkroom", "version": __version__}
    made = {"action": "c2pa.created", "digitalSourceType": SOURCES + source, "softwareAgent": agent}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}]
    manifest = {"claim_generator_info": [agent], "title": title, "assertions": assertions}
    signed = io.BytesIO()
    with _signer(c2pa, config) as signer:
        settings = c2pa.Settings.from_dict(_NOTHING_FROM_THE_NETWORK)
        with settings, c2pa.Context(settings) as context, c2pa.Builder(manifest, context) as builder:
            try:
                builder.sign(signer, kind.mime_type, io.BytesIO(data), signed)
            except c2pa.C2paError as error:
                name = type(error).__name__.removeprefix("_C2pa")
                if name in ("Signature", "Cose", "CertificateProfile"):
                    raise _refused(config, str(error)) from None
                raise ImageError("picture", title, f"can't be signed ({error})", "see the error") from None
    return signed.getvalue()


def check_signer(config: C2paConfig) -> None:
    """Sign a small picture in memory, without a time stamp. Raises ConfigError (E-CONFIG) as `sign_picture` does."""
    from PIL import Image

    sample = PNG.encode(Image.new("RGB", (8, 8)), {})
    sign_picture(sample, PNG, config.model_copy(update={"timestamp_url": None}), GENERATED, "sample")


def identify_signer(config: C2paConfig) -> dict[str, Any]:
    """What makes signed files others: the certificate's bytes by their SHA-256, and how is signed. Nothing of the key."""
    chain = hashlib.sha256(_read(config, "certificate")).hexdigest()
    return {"certificate": chain, "algorithm": config.algorithm, "timestamp_url": config.timestamp_url}


@contextmanager
def _signer(c2pa: Any, config: C2paConfig) -> Iterator[Any]:
    chain, key = _read(config, "certificate"), _read(config, "key")
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise ConfigError("c2pa.certificate =", config.certificate, "holds no certificate as PEM", "give the PEM file")
    if b"ENCRYPTED" in key:
        hint = "write it without one, readable by you alone: openssl pkcs8 -topk8 -nocrypt"
        raise ConfigError("c2pa.key =", config.key, "has a passphrase", hint)
    if b"-----BEGIN PRIVATE KEY-----" not in key:
        hint = "convert it: openssl pkcs8 -topk8 -nocrypt"
        raise ConfigError("c2pa.key =", config.key, "holds no private key as PEM (PKCS#8)", hint)
    algorithm = getattr(c2pa.C2paSigningAlg, config.algorithm.upper())
    stamp = None if config.timestamp_url is None else config.timestamp_url.encode()
    try:
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, stamp))
    except (c2pa.C2paError, ValueError):
        raise _refused(config, f"the library takes no key or certificate of it for {config.algorithm}") from None
    with signer:
        yield signer


def _refused(config: C2paConfig, why: str) -> ConfigError:
    hint = "give the certificate's own key, and an algorithm that the key is for"
    return ConfigError("c2pa.certificate =", config.certificate, f"can't sign: {why}", hint)


def _read(config: C2paConfig, name: str) -> bytes:
    path = getattr(config, name)
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"c2pa.{name} =", path, error.strerror or "can't be read", "correct the path") from None


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise ConfigError("c2pa", None, "needs the package c2pa-python, which isn't installed", _INSTALL) from None
    return c2pa
