"""Every error a user can meet. One line each: `E-CODE what 'value': why. Hint: action.`

DarkroomError
├── InputError            the user's input is wrong; commands exit with 2
│   ├── ConfigError       E-CONFIG      config or prompt sheet: unknown key, wrong value, YAML error
│   ├── BadNameError      E-NAME        an id or a name that can't be used, or two that collide
│   ├── SheetError        E-SHEET       a prompt sheet is missing or can't be read
│   ├── RequestError      E-REQUEST     a picture's settings are out of range
│   ├── LimitError        E-LIMIT       more than a server or a file's format allows: bytes, pixels, steps, pictures, LoRAs
│   ├── UnknownModelError E-UNKNOWN     a server has no model of that name
│   ├── AuthError         E-AUTH        a key or a token is missing or refused, or a licence isn't accepted
│   ├── OriginError       E-ORIGIN      a request that comes from another site, or for another host's name
│   ├── UnsupportedError  E-UNSUPPORTED a client asks for something that Darkroom does not do
│   ├── SsrfError         E-SSRF        a client names an address or a path that a server should open
│   ├── SourceError       E-SOURCE      a source is missing, or is not what it should be
│   ├── SharedError       E-SHARED      another project has made something else of that name in the same models folder
│   ├── ProjectError      E-PROJECT     a new project's folder exists already
│   ├── ArchiveError      E-ARCHIVE     an exported sheet can't be read, or has what no export has
│   ├── LoraError         E-LORA        a LoRA is unknown, of a kind that can't be applied, or doesn't fit the model
│   ├── EmbeddingError    E-EMBEDDING   a textual inversion is unknown, broken or of another base
│   ├── ScoreError        E-SCORE       a file that should score pictures is of another kind, or doesn't fit its CLIP
│   ├── UpscalerError     E-UPSCALER    an upscaler is unknown, of no known architecture, or doesn't enlarge RGB pictures
│   └── ControlError      E-CONTROL     a ControlNet is unknown, of another kind or family, or used in a way that it can't be
├── CheckpointError       the file given as a checkpoint can't be used
│   ├── NotWeightsError   E-NOTWEIGHTS  HTML, JSON or an LFS pointer instead of weights
│   ├── PickleError       E-PICKLE      a pickle, whatever its ending
│   ├── FormatError       E-FORMAT      a broken safetensors file
│   ├── ArchitectureError E-ARCH        a file of another model family
│   ├── KeysError         E-KEYS        tensors missing, left over or of the wrong shape
│   ├── NanWeightError    E-NANWEIGHT   NaN or Inf among the weights
│   └── HashError         E-HASH        the bytes are not the expected ones
├── FetchError            E-FETCH       a source could not be fetched
│   ├── NetworkError      E-NETWORK     a server can't be reached, or goes on failing
│   ├── StallError        E-STALL       a server stopped sending, again and again
│   ├── RangeError        E-RANGE       a server sent another part of a file than was requested
│   └── OfflineError      E-OFFLINE     something has to be fetched, but the network is not to be used
├── ModelError            E-MODEL       the Diffusers folder is missing or broken
│   └── IndexFileError    E-INDEX       model_index.json or a config names what isn't allowed
├── InUseError            E-IN-USE      another run uses a model that would have to be made again
├── DiskError             E-DISK        not enough free space, or the file system refused
├── VersionError          E-VERSION     a job's environment has another Darkroom than the run that planned it
├── ServerError           E-SERVER      the engine did not start or did not answer
│   ├── ServerDiedError   E-SERVER-DIED the engine's process ended during a picture
│   ├── BusyError         E-BUSY        the queue is full, or the server is about to end
│   ├── DeadlineError     E-TIMEOUT     a picture was not finished in the time allowed
│   ├── CancellationError E-CANCELLED   a picture was cancelled on request
│   ├── CudaError         E-CUDA        a fault of the device that lasts until the engine has started again
│   └── SocketError       E-SOCKET      the engine's socket belongs to somebody else
├── ClusterError          E-CLUSTER     a cluster's job failed, or its scheduler took none
├── OutOfMemoryError      E-OOM         a picture did not fit into memory
├── NanImageError         E-NANIMAGE    NaN or Inf in the latents or the picture
└── ImageError            E-IMAGE       a picture on disk is damaged, or its metadata can't be used
"""

from __future__ import annotations


class DarkroomError(Exception):
    """A failure with a stable code, the offending value, the reason and one thing to do."""

    code = "E-DARKROOM"
    exit_code = 1

    def __init__(self, what: str, value: object = None, why: str = "", hint: str = "") -> None:
        self.what = what
        self.value = None if value is None else str(value)
        self.why = why
        self.hint = hint
        super().__init__(what, value, why, hint)

    def __str__(self) -> str:
        head = f"{self.code} {self.what}"
        if self.value is not None:
            head += f" '{self.value}'"
        if self.why:
            head += f": {self.why}"
        text = f"{head.rstrip('.')}."
        if self.hint:
            text += f" Hint: {self.hint.rstrip('.')}" + ("" if self.hint.endswith("?") else ".")
        # Names come from files: nothing in them may move a terminal's cursor or fail to be written to a log.
        return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))

    def as_dict(self) -> dict[str, str | None]:
        """The error as JSON-ready data, for answers over a socket or HTTP."""
        return {"code": self.code, "what": self.what, "value": self.value, "why": self.why, "hint": self.hint}

    @staticmethod
    def from_dict(data: dict[str, str | None]) -> DarkroomError:
        """The error that `as_dict` described, of the class that carries its code."""
        kinds = {kind.code: kind for kind in _all_kinds(DarkroomError)}
        kind = kinds.get(data.get("code") or "", DarkroomError)
        return kind(data["what"] or "", data.get("value"), data.get("why") or "", data.get("hint") or "")


def _all_kinds(root: type[DarkroomError]) -> list[type[DarkroomError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _all_kinds(child))]


class InputError(DarkroomError):
    code = "E-INPUT"
    exit_code = 2


class ConfigError(InputError):
    code = "E-CONFIG"


class BadNameError(InputError):
    code = "E-NAME"


class SheetError(InputError):
    code = "E-SHEET"


class RequestError(InputError):
    code = "E-REQUEST"


class LimitError(InputError):
    code = "E-LIMIT"


class UnknownModelError(InputError):
    code = "E-UNKNOWN"


class AuthError(InputError):
    code = "E-AUTH"


class OriginError(InputError):
    code = "E-ORIGIN"


class UnsupportedError(InputError):
    code = "E-UNSUPPORTED"


class SsrfError(InputError):
    code = "E-SSRF"


class SourceError(InputError):
    code = "E-SOURCE"


class SharedError(InputError):
    code = "E-SHARED"


class ProjectError(InputError):
    code = "E-PROJECT"


class ArchiveError(InputError):
    code = "E-ARCHIVE"


class LoraError(InputError):
    code = "E-LORA"


class EmbeddingError(InputError):
    code = "E-EMBEDDING"


class ScoreError(InputError):
    code = "E-SCORE"


class UpscalerError(InputError):
    code = "E-UPSCALER"


class ControlError(InputError):
    code = "E-CONTROL"


class CheckpointError(DarkroomError):
    code = "E-CHECKPOINT"

    def of_kind(self, kind: str, name: object = None, hint: str | None = None) -> CheckpointError:
        """The same error of a file of another kind, such as `LoRA`; messages call it `name`, or what they called it before."""
        what, own_hint = (text.replace("checkpoint", kind) for text in (self.what, self.hint))
        return type(self)(what, self.value if name is None else name, self.why, own_hint if hint is None else hint)


class NotWeightsError(CheckpointError):
    code = "E-NOTWEIGHTS"


class PickleError(CheckpointError):
    code = "E-PICKLE"


class FormatError(CheckpointError):
    code = "E-FORMAT"


class ArchitectureError(CheckpointError):
    code = "E-ARCH"


class KeysError(CheckpointError):
    code = "E-KEYS"


class NanWeightError(CheckpointError):
    code = "E-NANWEIGHT"


class HashError(CheckpointError):
    code = "E-HASH"


class FetchError(DarkroomError):
    code = "E-FETCH"


class NetworkError(FetchError):
    code = "E-NETWORK"


class StallError(FetchError):
    code = "E-STALL"


class RangeError(FetchError):
    code = "E-RANGE"


class OfflineError(FetchError):
    code = "E-OFFLINE"


class ModelError(DarkroomError):
    code = "E-MODEL"


class IndexFileError(ModelError):
    code = "E-INDEX"


class VersionError(DarkroomError):
    code = "E-VERSION"


class InUseError(DarkroomError):
    code = "E-IN-USE"


class DiskError(DarkroomError):
    code = "E-DISK"


class ServerError(DarkroomError):
    code = "E-SERVER"


class ServerDiedError(ServerError):
    code = "E-SERVER-DIED"


class SocketError(ServerError):
    code = "E-SOCKET"


class BusyError(ServerError):
    """`retry_after_s` is when to come again, in seconds; `is_unavailable` if it isn't a matter of too many requests."""

    code = "E-BUSY"
    retry_after_s: int = 1
    is_unavailable: bool = False


class DeadlineError(ServerError):
    code = "E-TIMEOUT"


class CancellationError(ServerError):
    code = "E-CANCELLED"


class CudaError(ServerError):
    code = "E-CUDA"


class ClusterError(DarkroomError):
    code = "E-CLUSTER"


class OutOfMemoryError(DarkroomError):
    code = "E-OOM"


class NanImageError(DarkroomError):
    code = "E-NANIMAGE"


class ImageError(DarkroomError):
    code = "E-IMAGE"
