"""The error codes: their meaning from darkroom.errors, their HTTP status from the server, and what to do about each."""

from __future__ import annotations

import re

from darkroom import errors
from darkroom.errors import DarkroomError
from darkroom.serve.http import status_of
from tools.reference.markdown import table

_LINE = re.compile(r"[├└│ ─]*(?P<name>\w+)\s+(?P<code>E-[A-Z-]+)\s+(?P<meaning>.+)")
_ROOTS = {
    "E-DARKROOM": "any other failure, such as an error of the system",
    "E-INPUT": "the input is wrong in a way that no other code names",
    "E-CHECKPOINT": "the checkpoint can't be used for a reason that no other code names",
}
ACTIONS = {
    "E-DARKROOM": "Read the reason; `darkroom --verbose VERB …` adds a traceback.",
    "E-INPUT": "Follow the hint.",
    "E-CONFIG": "Correct the key at the line that the message names; for a GPU that can't be used, follow the hint.",
    "E-NAME": "Choose another name.",
    "E-SHEET": "Correct the sheet at the line that the message names, or its path.",
    "E-REQUEST": "Correct the setting that the message names.",
    "E-LIMIT": "Ask for less, or raise the limit in `serve`.",
    "E-UNKNOWN": "Use one of the names that the hint lists.",
    "E-AUTH": "Send the API key; for a source set the token that the hint names, or accept the licence on the page that it names. "
    "It is not tried again.",
    "E-ORIGIN": "Add the name to `serve.allowed_hosts` or the site to `serve.allowed_origins`.",
    "E-UNSUPPORTED": "Leave out the field, or the tag or word of the prompt.",
    "E-SSRF": "Send the data itself; a server opens no address or path for a client.",
    "E-SOURCE": "Correct the source in the configuration.",
    "E-PROJECT": "Give a folder that does not exist yet; nothing in the existing one was changed.",
    "E-ARCHIVE": "Get the archive again from whoever made it, and don't unpack one that is refused for its names, links or size.",
    "E-SHARED": "Use another name, or delete the receipt or audit that the message names if the other project no longer needs it.",
    "E-LORA": "Correct the name, or use a LoRA made for this base. No picture is made without its LoRA.",
    "E-EMBEDDING": "Correct the name, or use an embedding with vectors for both text encoders.",
    "E-SCORE": "Use a file of the kind that the message asks for, or name the CLIP that it was trained on.",
    "E-UPSCALER": "Correct the name, or use a model that enlarges RGB pictures, of an architecture that spandrel knows.",
    "E-CONTROL": "Correct the name or the control, or use a ControlNet for SDXL, single or Union.",
    "E-CHECKPOINT": "Use another file.",
    "E-NOTWEIGHTS": "Download the file itself instead of its page or its LFS pointer.",
    "E-PICKLE": "Use a safetensors file.",
    "E-FORMAT": "Download the file again.",
    "E-ARCH": "Use a checkpoint of the SDXL family.",
    "E-KEYS": "Read which tensors are missing or left over; name another `architecture` or a `vae` if that is the reason.",
    "E-NANWEIGHT": "Use another file; this one would make broken pictures.",
    "E-HASH": "`darkroom fetch --update NAME` if the new bytes are wanted; else correct `sha256` or the source. "
    "Nothing appears under its name; what was there before stays in `models/downloads`.",
    "E-FETCH": "Run the same command again.",
    "E-NETWORK": "Run the same command again; the download goes on where it was.",
    "E-STALL": "Run the same command again; the download goes on where it was.",
    "E-RANGE": "Run the same command again; if it stays, use another source.",
    "E-OFFLINE": "Allow the network, or fetch on a machine that has it.",
    "E-MODEL": "`snakemake --cores 1 models/`, then the same command.",
    "E-INDEX": "Use another folder: this one names code or components that are not allowed.",
    "E-VERSION": "Delete `.snakemake/conda` and run the same command again.",
    "E-IN-USE": "Run it again when the other run has ended.",
    "E-DISK": "Free disk space or correct the permissions, then the same command.",
    "E-SERVER": "Read the log lines that follow, fix what they report, then the same command.",
    "E-SERVER-DIED": "Run the same command again; a new engine starts by itself.",
    "E-BUSY": "Send the request again after the seconds in `Retry-After`.",
    "E-TIMEOUT": "Ask for less, or raise `serve.timeout_s` or `engine.render_timeout_s`.",
    "E-CANCELLED": "Send the request again if the picture is still wanted.",
    "E-CUDA": "Nothing at first: the engine starts again and the picture is tried once more before anybody sees this.",
    "E-SOCKET": "Set `XDG_RUNTIME_DIR` to a folder of your own.",
    "E-CLUSTER": "Read the state and the reason; see [a cluster](../how-to/cluster.md#when-something-goes-wrong).",
    "E-OOM": "Make the picture smaller, or set `engine.memory: offload`. The next picture works.",
    "E-NANIMAGE": "Use another VAE, or `engine.dtype: fp32`. Nothing is written; the next picture works.",
    "E-IMAGE": "A run's picture: run the same command again; it is rendered anew. The damaged or edited file is moved to `results/.trash`. "
    "Another tool's: the line says what of it isn't understood; [what is](other-tools.md).",
}
"""What to do, by code."""


def make_parts() -> dict[str, str]:
    """A row for each code, in the order of the tree in darkroom.errors."""
    kinds = {kind.code: kind for kind in _kinds(DarkroomError)}
    meanings = _ROOTS | {found["code"]: found["meaning"] for found in map(_LINE.match, _tree()) if found}
    if not (kinds.keys() == meanings.keys() == ACTIONS.keys()):
        different = (kinds.keys() ^ meanings.keys()) | (kinds.keys() ^ ACTIONS.keys())
        raise ValueError(f"not in the class tree, its docstring and ACTIONS alike: {', '.join(sorted(different))}")
    rows = [
        (f'<a id="{each.lower()}"></a>`{each}`', str(kind.exit_code), _status(kind), meanings[each], ACTIONS[each])
        for each, kind in kinds.items()
    ]
    return {"codes": table(("code", "exit code", "HTTP status", "meaning", "what to do"), rows)}


def _tree() -> list[str]:
    return (errors.__doc__ or "").splitlines()


def _kinds(root: type[DarkroomError]) -> list[type[DarkroomError]]:
    own = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(kind for child in own for kind in _kinds(child))]


def _status(kind: type[DarkroomError]) -> str:
    return str(status_of(kind("")))
