"""Publishing a finished model: the folder and the audit beside it always belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from darkroom.base.claims import Staging
from darkroom.base.files import disk_errors, sync_folder
from darkroom.checkpoint.audit import ConversionAudit, audit_path, write_audit
from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.verified import Fingerprint, forget, remember
from darkroom.errors import BadNameError


def check_destination(dest: Path, *, source: Path | None = None) -> None:
    """Raise BadNameError (E-NAME) unless `dest` is new, empty or a model, and doesn't overlap the folder `source`."""
    place = dest.resolve()
    if source is not None and (source.is_relative_to(place) or place.is_relative_to(source)):
        raise BadNameError("destination", dest, "is the source folder or lies within it", "name another folder")
    if dest.exists() and not (dest / INDEX).is_file() and (not dest.is_dir() or any(dest.iterdir())):
        raise BadNameError("destination", dest, "exists and is not a Diffusers folder", "name another folder")


def publish_model(staging: Staging, audit: ConversionAudit, hashes: Mapping[str, Fingerprint] | None = None) -> None:
    """Move the staged folder to its destination, with its audit and, if known, its files' hashes beside it.

    The staging folder holds the claim on its destination, so no other process publishes there meanwhile. Raises
    DiskError (E-DISK).
    """
    dest = staging.destination
    with disk_errors(dest):
        # Without an audit a folder is merely anonymous; with another folder's audit it would be mislabelled.
        audit_path(dest).unlink(missing_ok=True)
        forget(dest)
        sync_folder(dest.parent)
        staging.publish()
        if hashes is not None:
            remember(dest, hashes)
        write_audit(dest, audit)
