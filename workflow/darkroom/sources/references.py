"""References: every form in which a source can be written, parsed without asking anybody.

AIR is https://developer.civitai.com/site/guide/air; Civitai's addresses are those of its pages and of its API
(https://developer.civitai.com/site/reference), the Hub's those of its pages and of huggingface_hub's `hf_hub_url`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from darkroom.base.secrets import has_secret, redact, redact_url
from darkroom.base.sockets import is_loopback
from darkroom.errors import ConfigError, SourceError

CIVITAI_VARIABLE = "CIVITAI_ENDPOINT"
HUB_VARIABLE = "HF_ENDPOINT"


def civitai_endpoint() -> str:
    """Civitai's address without a slash at its end. Raises ConfigError (E-CONFIG)."""
    return _endpoint(CIVITAI_VARIABLE, "https://civitai.com")


def hub_endpoint() -> str:
    """The Hub's address without a slash at its end. Raises ConfigError (E-CONFIG)."""
    return _endpoint(HUB_VARIABLE, "https://huggingface.co")


def origin_of(endpoint: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}"


def is_in_the_clear(url: str) -> bool:
    """True for plain HTTP to another machine, where anybody on the way can read and change everything."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _endpoint(variable: str, default: str) -> str:
    endpoint = os.environ.get(variable, "").strip().rstrip("/") or default
    try:
        parts = urlsplit(endpoint)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or parts.query or parts.fragment or "@" in parts.netloc or not endpoint.isprintable():
        raise ConfigError(
            variable, redact_url(endpoint), "is no address of a server", f"set it as {default} is written"
        )
    return endpoint


@dataclass(frozen=True, slots=True)
class LocalReference:
    """A file or a folder on this machine."""

    path: str

    @property
    def text(self) -> str:
        return self.path

    @property
    def is_local(self) -> bool:
        return True

    @property
    def is_folder(self) -> bool:
        return Path(self.path).expanduser().is_dir()


@dataclass(frozen=True, slots=True)
class CivitaiReference:
    """A version of a model at Civitai; without `version_id` the one that the model's page shows first, its newest.

    `file_id` names one of its files; `wanted` are the properties, among `type`, `size` and `fp`, that it has to have.
    """

    model_id: int | None
    version_id: int | None
    file_id: int | None = None
    wanted: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        version = str(self.version_id or "latest")
        ids = f"{self.model_id}@{version}" if self.model_id else version
        file = f"+{self.file_id}" if self.file_id else ""
        return f"civitai:{ids}{file}" + (f"?{urlencode(self.wanted, quote_via=quote)}" if self.wanted else "")

    @property
    def is_local(self) -> bool:
        return False

    @property
    def is_folder(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class HubReference:
    """A .safetensors file in a repository at the Hugging Face Hub, or a Diffusers folder; without `path` all of it.

    `revision` is a branch, a tag or a commit; None is the branch main.
    """

    repo: str
    path: str | None = None
    revision: str | None = None

    @property
    def text(self) -> str:
        path = f"/{_quoted(self.path)}" if self.path else ""
        return f"hf:{self.repo}{path}" + (f"@{_quoted(self.revision)}" if self.revision else "")

    @property
    def is_local(self) -> bool:
        return False

    @property
    def is_folder(self) -> bool:
        return self.path is None or not self.path.lower().endswith(".safetensors")


@dataclass(frozen=True, slots=True)
class UrlReference:
    """A file at any web address."""

    url: str

    @property
    def text(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return False

    @property
    def is_folder(self) -> bool:
        return False

    @property
    def is_plain_http(self) -> bool:
        """True where anybody on the way could change the file: only a known SHA256 makes that bearable."""
        return is_in_the_clear(self.url)


Reference = LocalReference | CivitaiReference | HubReference | UrlReference


def _quoted(text: str) -> str:
    """Only what would be read as something else is percent-encoded."""
    return re.sub(r"[%@?#\\\s]", lambda found: quote(found[0], safe=""), text)


HINT = "give a path, https://…, civitai:MODEL@VERSION or hf:ORG/REPO/FILE.safetensors"
_CIVITAI_HINT = "write civitai:MODEL@VERSION with the numbers that the address of the version's page shows"
_HUB_HINT = (
    "write hf:ORG/REPO for a Diffusers folder or hf:ORG/REPO/FILE.safetensors, with @REVISION behind it if need be"
)
_CIVITAI_HOSTS = frozenset(f"{www}civitai.{end}" for www in ("", "www.") for end in ("com", "red", "green"))
_HUB_HOSTS = frozenset(("huggingface.co", "www.huggingface.co", "hf.co"))

_CIVITAI = re.compile(r"(?i:civitai):(?:([0-9]+)@)?([0-9]+|latest)(?:\+([0-9]+))?(?:\?(.*))?")
_AIR_CIVITAI = re.compile(r"([0-9]+)(?:@([0-9]+))?(?:\+([0-9]+))?(?:\.([A-Za-z]+))?")
_CIVITAI_PAGE = re.compile(r"(?:/api/v1)?/models/([0-9]+)(?:/.*)?")
_CIVITAI_VERSION = re.compile(r"(?:/api/v1|/api/download)?/(?:model-versions|(?<=download/)models)/([0-9]+)/?")
_REPO = re.compile(r"(?!.*(?:\.\.|--))[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
_WANTED = ("fp", "size", "type")
_LARGEST_ID = 2**31 - 1


def from_civitai(text: str) -> CivitaiReference:
    """`civitai:MODEL@VERSION`, `civitai:VERSION` or `civitai:MODEL@latest`, with `+FILE` or `?fp=…&size=…&type=…`."""
    found = _CIVITAI.fullmatch(text)
    if found is None or (found[1] is None and found[2] == "latest"):
        raise SourceError("source", text, "does not name a version of a model", _CIVITAI_HINT)
    return _civitai(text, found[1], None if found[2] == "latest" else found[2], found[3], found[4] or "")


def from_hub(text: str) -> HubReference:
    """`hf:ORG/REPO[/PATH][@REVISION]`, in which `%40` is an `@` of the path."""
    body, _, revision = text.partition(":")[2].partition("@")
    org, _, rest = body.partition("/")
    repo, _, path = rest.partition("/")
    return _hub(text, f"{org}/{repo}", unquote(path), unquote(revision))


def from_air(text: str) -> Reference:
    """`urn:air:ECOSYSTEM:TYPE:SOURCE:ID[@VERSION][+FILE][.FORMAT]`, whose first four parts may be missing."""
    named = re.sub(r"(?i)^(?:urn:)?(?:air:)?", "", text)
    *_, source, what = ["", *named.split(":")]
    if (named == text and named.count(":") != 3) or named.count(":") > 3:
        source = ""
    if source.lower() == "civitai" and (found := _AIR_CIVITAI.fullmatch(what)):
        if (found[4] or "safetensors").lower() not in ("safetensor", "safetensors"):
            raise SourceError(
                "source", text, f"asks for a {found[4]} file", "leave the ending out: only safetensors is read"
            )
        return _civitai(text, found[1], found[2], found[3], "")
    if source.lower() == "huggingface":
        repo, _, version = what.partition("@")
        revision, _, path = version.partition("/")
        return _hub(text, repo, unquote(path), unquote(revision))
    why = (
        "is not an AIR of Civitai or of the Hub"
        if named != text
        else f"'{text.partition(':')[0]}:' is no kind of source"
    )
    raise SourceError("source", text, why, HINT)


def from_url(text: str) -> Reference:
    """The address of a page or a file at Civitai or the Hub, or of any other file."""
    try:
        parts = urlsplit(text)
        is_sound = bool(parts.hostname) and parts.port != 0 and not set(text) & set(" \\")
    except ValueError:
        is_sound = False
    if not is_sound:
        raise SourceError("source", text, "is no web address", HINT)
    if (path := _path_at(parts, civitai_endpoint(), _CIVITAI_HOSTS)) is not None:
        return _from_civitai_page(text, path, parts.query)
    if (path := _path_at(parts, hub_endpoint(), _HUB_HOSTS)) is not None:
        return _from_hub_page(text, [unquote(part) for part in path.split("/") if part])
    return UrlReference(text.partition("#")[0])


def _path_at(parts: SplitResult, endpoint: str, hosts: frozenset[str]) -> str | None:
    """The path at a service that has these hosts, and `endpoint`, which may have a path of its own; None elsewhere."""
    if parts.hostname in hosts and parts.port in (None, 80, 443):
        return parts.path
    there = urlsplit(endpoint)
    is_there = (parts.scheme, parts.hostname, parts.port) == (there.scheme, there.hostname, there.port)
    return parts.path.removeprefix(there.path) if is_there and f"{parts.path}/".startswith(f"{there.path}/") else None


def _from_civitai_page(text: str, path: str, query: str) -> CivitaiReference:
    if found := _CIVITAI_VERSION.fullmatch(path):
        return _civitai(text, None, found[1], None, query if "/download/" in path else "")
    if found := _CIVITAI_PAGE.fullmatch(path):
        version = dict(parse_qsl(query)).get("modelVersionId")
        return _civitai(text, found[1], version, None, "")
    raise SourceError("source", text, "is not the address of a model", _CIVITAI_HINT)


def _from_hub_page(text: str, parts: list[str]) -> HubReference:
    repo, kind, rest = "/".join(parts[:2]), parts[2:3], parts[3:]
    if not kind and len(parts) == 2:
        return _hub(text, repo, "", "")
    count = 3 if rest[:1] == ["refs"] else 1  # refs/pr/1, refs/convert/parquet
    path = "/".join(rest[count:])
    if kind == ["tree"] and rest:
        return _hub(text, repo, path, "/".join(rest[:count]))
    if kind[0:1] not in (["blob"], ["resolve"], ["raw"]):
        raise SourceError("source", text, "is not the address of a model or a file of one", _HUB_HINT)
    if not path.lower().endswith(".safetensors"):
        raise SourceError("source", text, "is not the address of a .safetensors file", _HUB_HINT)
    return _hub(text, repo, path, "/".join(rest[:count]))


def _civitai(text: str, model: str | None, version: str | None, file: str | None, query: str) -> CivitaiReference:
    asked = {name: value for name, value in parse_qsl(query) if value}
    if asked.get("format", "SafeTensor").lower() != "safetensor":
        raise SourceError("source", text, f"asks for a {asked['format'][:40]} file", "only safetensors files are read")
    file = asked.pop("fileId", file)
    asked.pop("format", None)
    for name, value in asked.items():
        if name not in _WANTED or not re.fullmatch(r"[\w. -]{1,40}", value):
            why = f"asks for '{name[:40]}', which can't be told apart here"
            raise SourceError("source", text, why, f"name the file by its number: civitai:{version or 'VERSION'}+FILE")
    ids = [_number(text, value) for value in (model, version, file)]
    return CivitaiReference(ids[0], ids[1], ids[2], tuple(sorted(asked.items())))


def _number(text: str, digits: str | None) -> int | None:
    if digits is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", digits) or not 0 < int(digits) <= _LARGEST_ID:
        raise SourceError("source", text, f"'{digits[:40]}' is not the number of anything at Civitai", _CIVITAI_HINT)
    return int(digits)


def _hub(text: str, repo: str, path: str, revision: str) -> HubReference:
    path = path.strip("/")
    if not _REPO.fullmatch(repo) or len(repo) > 96 or repo.endswith(".git"):
        raise SourceError("source", text, "does not name a repository as ORG/REPO", _HUB_HINT)
    if repo.partition("/")[0] in ("datasets", "spaces"):
        raise SourceError("source", text, "is no repository of a model", _HUB_HINT)
    if not f"{path}{revision}".isprintable() or set(path.split("/")) & {".", ".."} or "\\" in path or "//" in path:
        raise SourceError("source", text, "names a path that no repository has", _HUB_HINT)
    if revision and (revision.strip(" /") != revision or len(revision) > 200 or ".." in revision):
        raise SourceError("source", text, "names a revision that no repository has", _HUB_HINT)
    return HubReference(repo, path or None, None if revision == "main" else revision or None)


__all__ = ["CivitaiReference", "HubReference", "LocalReference", "Reference", "UrlReference", "parse_reference"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SECRET_HINT = (
    "leave it out of the address: Civitai's token belongs into CIVITAI_API_KEY and the Hub's into HF_TOKEN; "
    "from other sites download by hand, then give the path"
)


def parse_reference(source: str) -> Reference:
    """What a configured source means. `parse_reference(reference.text) == reference` for every reference it returns.

    Raises SourceError (E-SOURCE) for what isn't one of the forms and for an address that carries a secret, which is not
    shown; ConfigError (E-CONFIG) for a broken CIVITAI_ENDPOINT or HF_ENDPOINT.
    """
    text = source.strip()
    if not text:
        raise SourceError("source", source, "is empty", HINT)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return LocalReference(source)
    if has_secret(text):
        raise SourceError("source", redact(text), "carries a secret, which would be stored and shown", _SECRET_HINT)
    if not text.isprintable():
        raise SourceError("source", text, "holds characters that can't stand in an address", HINT)
    match scheme[1].lower():
        case "http" | "https":
            return from_url(text)
        case "civitai":
            return from_civitai(text)
        case "hf":
            return from_hub(text)
        case _:
            return from_air(text)


def refuse_plain_http(reference: Reference, sha256: str | None) -> None:
    """Raise SourceError (E-SOURCE) for an unencrypted address without a known SHA256: anybody on the way could change the file."""
    if isinstance(reference, UrlReference) and reference.is_plain_http and sha256 is None:
        why = "comes unencrypted, so that anybody on the way can change it"
        raise SourceError("source", reference.text, why, "use https, or give its sha256 in the configuration")
