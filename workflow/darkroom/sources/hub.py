"""The Hugging Face Hub: how its repositories are named, and which commit, files, sizes and hashes a reference stands for.

Addresses are those of the Hub's pages and of huggingface_hub's `hf_hub_url`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from darkroom import __version__
from darkroom.errors import ConfigError, DarkroomError, NetworkError, OfflineError, SourceError
from darkroom.sources.access import Access, find_access, refusal, shown, token_from_environment
from darkroom.sources.addresses import path_at, read_endpoint, scheme_of, split_air, split_web_address
from darkroom.sources.receipt import SourceFacts
from darkroom.sources.remote_source import RemoteSource
from darkroom.sources.retry import TransientError
from darkroom.sources.source import GetJson, RemoteFile, Resolved

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

ENDPOINT_VARIABLE = "HF_ENDPOINT"
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_LOGIN = "huggingface_hub's login"
_TRUE = ("1", "on", "yes", "true")
_HOSTS = frozenset(("huggingface.co", "www.huggingface.co", "hf.co"))
_HINT = "write hf:ORG/REPO for a Diffusers folder or hf:ORG/REPO/FILE.safetensors, with @REVISION behind it if need be"
_REPO = re.compile(r"(?!.*(?:\.\.|--))[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
_TIMEOUT_S = 30.0
_REFUSED = (401, 403, 404, 410, 451)
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class HubSource(RemoteSource):
    """A .safetensors file in a repository at the Hugging Face Hub, or a Diffusers folder; without `path` all of it.

    `revision` is a branch, a tag or a commit; None is the branch main.
    """

    repo: str
    path: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubSource | None:
        """`hf:ORG/REPO`, the address of a repository or a file of one, or an AIR."""
        match scheme_of(text):
            case "hf":
                return _from_short_form(text)
            case "http" | "https":
                parts = split_web_address(text)
                path = parts and path_at(parts, hub_endpoint(), _HOSTS)
                return None if path is None else _from_page(text, [unquote(part) for part in path.split("/") if part])
            case _:
                return _from_air(text)

    @property
    def text(self) -> str:
        path = f"/{_quoted(self.path)}" if self.path else ""
        return f"hf:{self.repo}{path}" + (f"@{_quoted(self.revision)}" if self.revision else "")

    @property
    def is_folder(self) -> bool:
        return self.path is None or not self.path.lower().endswith(".safetensors")

    def text_of(self, path: str) -> str:
        """The reference to another file of the same repository and revision."""
        return replace(self, path=path).text

    def resolve(self, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
        return resolve_hub(self, kind=kind, version=version, dtype=dtype)


def hub_endpoint() -> str:
    """The Hub's address without a slash at its end. Raises ConfigError (E-CONFIG)."""
    return read_endpoint(ENDPOINT_VARIABLE, "https://huggingface.co")


def hub_access(page: str | None) -> Access:
    """Access to the Hub, with the token of HF_TOKEN or of the file that HF_TOKEN_FILE names, else of `hf auth login`.

    Raises ConfigError (E-CONFIG) for a token that can't be sent, and for a token's file that others can read.
    """
    found = token_from_environment(TOKEN_VARIABLES) or _token_from_login()
    token_page = "https://huggingface.co/settings/tokens"
    return find_access(
        "the Hugging Face Hub", hub_endpoint(), found, variable=TOKEN_VARIABLES[0], token_page=token_page, page=page
    )


def resolve_hub(source: HubSource, *, kind: str, version: str | None, dtype: str) -> Resolved:
    """The files that `source` means; `version`, which the lock file holds, is the commit to take them from.

    Raises SourceError (E-SOURCE) for a source that is missing or not a `kind`, PickleError (E-PICKLE), AuthError (E-AUTH),
    OfflineError (E-OFFLINE) where HF_HUB_OFFLINE is set, NetworkError (E-NETWORK), TransientError for failures that may pass,
    ConfigError (E-CONFIG) for a broken token.
    """
    endpoint = hub_endpoint()
    access = hub_access(f"{endpoint}/{source.repo}")
    info = _ask(source, version or source.revision or "main", endpoint, access)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    commit = info.sha
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise _not_the_hub(source)
    # Both here, since only fetching needs them, and huggingface_hub takes half a second.
    from huggingface_hub import hf_hub_url

    from darkroom.sources.hub_files import folder_files, single_file

    if source.is_folder:
        chosen = folder_files(source, siblings, kind=kind, dtype=dtype)
    else:
        path = single_file(source, siblings)
        chosen = {path: path}
    files = []
    for place, path in chosen.items():
        lfs = siblings[path].lfs
        sha256 = lfs.sha256.lower() if lfs is not None else None
        files.append(
            RemoteFile(
                identity=f"hf:{source.repo}@{commit}/{path}",
                path=place,
                url=hf_hub_url(source.repo, path, revision=commit, endpoint=endpoint),
                access=access,
                size=siblings[path].size if lfs is None else lfs.size,
                # Files that aren't in LFS have no SHA256 here, only what git calls them.
                sha256=sha256 if sha256 and re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
            )
        )
    return Resolved(tuple(files), commit, _facts(source, info, commit, endpoint))


def _from_short_form(text: str) -> HubSource:
    """`hf:ORG/REPO[/PATH][@REVISION]`, in which `%40` is an `@` of the path."""
    body, _, revision = text.partition(":")[2].partition("@")
    org, _, rest = body.partition("/")
    repo, _, path = rest.partition("/")
    return _make(text, f"{org}/{repo}", unquote(path), unquote(revision))


def _from_page(text: str, parts: list[str]) -> HubSource:
    repo, kind, rest = "/".join(parts[:2]), parts[2:3], parts[3:]
    if not kind and len(parts) == 2:
        return _make(text, repo, "", "")
    count = 3 if rest[:1] == ["refs"] else 1  # refs/pr/1, refs/convert/parquet
    path = "/".join(rest[count:])
    if kind == ["tree"] and rest:
        return _make(text, repo, path, "/".join(rest[:count]))
    if kind[0:1] not in (["blob"], ["resolve"], ["raw"]):
        raise SourceError("source", text, "is not the address of a model or a file of one", _HINT)
    if not path.lower().endswith(".safetensors"):
        raise SourceError("source", text, "is not the address of a .safetensors file", _HINT)
    return _make(text, repo, path, "/".join(rest[:count]))


def _from_air(text: str) -> HubSource | None:
    air = split_air(text)
    if air.service != "huggingface":
        return None
    repo, _, version = air.model.partition("@")
    revision, _, path = version.partition("/")
    return _make(text, repo, unquote(path), unquote(revision))


def _make(text: str, repo: str, path: str, revision: str) -> HubSource:
    path = path.strip("/")
    if not _REPO.fullmatch(repo) or len(repo) > 96 or repo.endswith(".git"):
        raise SourceError("source", text, "does not name a repository as ORG/REPO", _HINT)
    if repo.partition("/")[0] in ("datasets", "spaces"):
        raise SourceError("source", text, "is no repository of a model", _HINT)
    if not f"{path}{revision}".isprintable() or set(path.split("/")) & {".", ".."} or "\\" in path or "//" in path:
        raise SourceError("source", text, "names a path that no repository has", _HINT)
    if revision and (revision.strip(" /") != revision or len(revision) > 200 or ".." in revision):
        raise SourceError("source", text, "names a revision that no repository has", _HINT)
    return HubSource(repo, path or None, None if revision == "main" else revision or None)


def _quoted(text: str) -> str:
    """Only what would be read as something else is percent-encoded."""
    return re.sub(r"[%@?#\\\s]", lambda found: quote(found[0], safe=""), text)


def _token_from_login() -> tuple[str, str] | None:
    """The token that `hf auth login` stored, which huggingface_hub renews if it is about to expire."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return None
    # Here, since only sources at the Hub need it.
    from huggingface_hub import get_token

    try:
        token = get_token()
    except Exception as error:  # whatever its stores, and the services that hand out tokens, do
        raise ConfigError(_LOGIN, None, f"can't be used ({type(error).__name__})", "set HF_TOKEN") from None
    return (_LOGIN, token) if token else None


def _ask(source: HubSource, revision: str, endpoint: str, access: Access) -> ModelInfo:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]  # of its HTTP client

    # Else each request would tell what runs us, and the Hub would be asked for names to look for.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    api = HfApi(
        endpoint=endpoint,
        token=access.token or False,  # False: no token that it finds by itself
        library_name="darkroom",
        library_version=__version__,
        headers={"Connection": "close"},  # nothing more is asked while gigabytes are downloaded
    )
    try:
        return api.model_info(source.repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    except OfflineModeIsEnabled:
        why = "the Hub would have to be asked, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
        raise OfflineError("source", source.text, why, "unset it, or give the path of a file") from None
    except HfHubHTTPError as error:
        raise _answer_error(source, access, error) from None
    except HFValidationError:
        raise SourceError("source", source.text, "no repository has that name", "check it at the Hub") from None
    except ClientError as error:
        raise _connection_error(source, endpoint, error) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _not_the_hub(source) from None


def _answer_error(source: HubSource, access: Access, error: HfHubHTTPError) -> DarkroomError | TransientError:
    answer = error.response
    if answer.status_code in _REFUSED:
        return refusal(access, source.text, answer.status_code, answer.headers, answer.content)
    why = f"{_host(access.origin)} answers {answer.status_code} {shown(answer.reason_phrase, 60)}".rstrip()
    if answer.status_code not in _TRANSIENT:
        return NetworkError("source", source.text, why, "check the source; the Hub's own pages may say more")
    # `RateLimit: "api";r=0;t=55` where nothing remains (draft-ietf-httpapi-ratelimit-headers).
    limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,6})\b", answer.headers.get("RateLimit", ""), re.ASCII)
    asked = re.fullmatch(r"\s*(\d{1,6})\s*", answer.headers.get("Retry-After", ""), re.ASCII) or limit
    after = float(asked[1]) if asked else None
    return TransientError(why, retry_after_s=after, is_rate_limit=answer.status_code == 429)


def _connection_error(source: HubSource, endpoint: str, error: Exception) -> DarkroomError | TransientError:
    import ssl  # here, since planning connects to nothing

    host = _host(endpoint)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"{host}: its TLS certificate can't be trusted ({shown(cause.verify_message)})"
            return NetworkError("source", source.text, why, "check the address, or the clock of this machine")
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if "Timeout" in type(error).__name__:
        return TransientError(f"{host} did not answer", is_stall=type(error).__name__ == "ReadTimeout")
    if "resolution" in text or "not known" in text or "No address" in text:
        return TransientError(f"{host} can't be found (DNS)")
    if "refused" in text:
        return TransientError(f"{host} refuses connections")
    return TransientError(f"the connection to {host} failed ({type(error).__name__})")


def _not_the_hub(source: HubSource) -> NetworkError:
    why = "the answer is not one of the Hub's API"
    return NetworkError("source", source.text, why, "check HF_ENDPOINT, or try again later")


def _host(address: str) -> str:
    return urlsplit(address).netloc


def _facts(source: HubSource, info: ModelInfo, commit: str, endpoint: str) -> SourceFacts:
    """The facts on the repository's card, which its owner wrote."""
    said = getattr(info.card_data, "get", lambda _: None)
    page = f"{endpoint}/{source.repo}"
    name, link = _text(said("license")), _text(said("license_link"))
    if name == "other":
        name = _text(said("license_name")) or name
    if link is not None and not re.match(r"https?://", link):
        link = f"{page}/blob/{commit}/{quote(link.removeprefix('./'))}"
    words = said("instance_prompt")
    return SourceFacts(
        version=commit,
        name=source.repo,
        base_model=_text(said("base_model")),
        license=name,
        license_url=link,
        trained_words=(shown(words),) if shown(words) else (),
        page=page,
    )


def _text(value: object) -> str | None:
    """One word, or several."""
    several = value if isinstance(value, list) else [value]
    return ", ".join(filter(None, (shown(each) for each in several[:10]))) or None
