"""What a file is, told by its first bytes and never by its name; nothing in it is executed."""

from __future__ import annotations

import re
from typing import BinaryIO

from darkroom.errors import FormatError, NotWeightsError, PickleError

_PICKLE_HINT = "use the checkpoint's .safetensors version; pickles can run code and are never opened"
_DOWNLOAD_HINT = "download the file again; a token may be missing"
# Protocols 0 and 1 have no mark of their own: a class, or a list, a tuple or a mapping that is put into the memo.
_OLD_PICKLE = re.compile(rb"\A(?:c[A-Za-z_][\w.]*\n[\w.]+\n|\((?:[cild]|dp|lp)|[\]})][qr])")


def refuse_other_formats(file: BinaryIO, name: object) -> None:
    """Raise if an open file's start is not a safetensors file's: 8 bytes of length, then a JSON object.

    Raises PickleError (E-PICKLE) for pickles and zip archives, NotWeightsError (E-NOTWEIGHTS) for HTML,
    JSON and Git LFS pointers, FormatError (E-FORMAT) for anything else. The file's position is kept.
    """
    place = file.tell()
    start = file.read(512)
    file.seek(place)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        why = "is a Git LFS pointer, not the file itself"
        raise NotWeightsError("checkpoint", name, why, "run 'git lfs pull' in the folder it came from")
    if re.match(rb"<[!?/a-z]", text):
        raise NotWeightsError("checkpoint", name, "is an HTML or XML page, not weights", _DOWNLOAD_HINT)
    if re.match(rb'(?:\{\s*["}]|\[\s*["{\[\]])', text):
        raise NotWeightsError("checkpoint", name, "is JSON text, not weights", _DOWNLOAD_HINT)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        raise PickleError(
            "checkpoint", name, "is a zip archive, as torch.save writes, with a pickle inside", _PICKLE_HINT
        )
    if (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or _OLD_PICKLE.match(start):
        raise PickleError("checkpoint", name, "is a pickle", _PICKLE_HINT)
    if start.startswith(b"GGUF"):
        raise FormatError("checkpoint", name, "is a GGUF file", "use the checkpoint's .safetensors version")
    if len(start) < 10:
        raise FormatError("checkpoint", name, f"holds {len(start)} bytes, too few for weights", "download it again")
    raise FormatError("checkpoint", name, "does not begin like a safetensors file", "download it again")
