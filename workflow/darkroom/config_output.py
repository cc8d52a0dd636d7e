"""The configuration's sections about what is written of finished pictures: files, metadata, signatures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from darkroom.config_sources import Section


class OutputConfig(Section):
    format: Literal["png", "webp", "jpeg", "avif"] = "png"
    """The format of the file beside each finished PNG, which stays: `ID-SEED.webp`. With `png` there is none."""
    quality: int | None = Field(None, ge=1, le=100)
    """The encoder's quality, 1 to 100. If left out: webp 90, jpeg 92, avif 80."""

    @field_validator("quality")
    @classmethod
    def _of_a_format_that_loses(cls, quality: int | None, info: ValidationInfo) -> int | None:
        if quality is not None and info.data.get("format") == "png":
            raise ValueError("means nothing to a PNG, which loses nothing")
        return quality


class MetadataConfig(Section):
    prompt: bool = True
    """Write prompts into pictures. With `false` the metadata has everything but them, and the SHA-256 of the whole request."""
    marking: bool = True
    """Mark pictures as generated: an XMP packet with IPTC's `DigitalSourceType`, `AISystemUsed` and its version."""


WHOLE_METADATA = MetadataConfig()
"""Everything is written, as the configuration's defaults have it."""


class C2paConfig(Section):
    certificate: str
    """The path of your certificate and those that lead to its root, as PEM, your own first."""
    key: str
    """The path of the certificate's private key, as PEM (PKCS#8, without a passphrase). It is read, and never written anywhere."""
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """How the key signs."""
    timestamp_url: str | None = Field(None, pattern=r"^https?://[^\s@]+$")
    """A server for time stamps (RFC 3161), which is asked for each picture. None is asked if left out."""
