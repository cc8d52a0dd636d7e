"""The Hugging Face Hub: which files a reference means, at which commit, their sizes and hashes."""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from darkroom import __version__
from darkroom.checkpoint.folder import ONE_FILE_VOCABULARY, TOKENIZERS, VOCABULARY_FILES
from darkroom.checkpoint.index import INDEX, PICKLE_ENDINGS
from darkroom.checkpoint.keymap import COMPONENTS
from darkroom.checkpoint.weights import VARIANTS, index_path, weight_path
from darkroom.errors import DarkroomError, NetworkError, OfflineError, PickleError, SourceError
from darkroom.sources.access import Access, hub_access, refusal, shown
from darkroom.sources.receipt import SourceFacts
from darkroom.sources.references import HubReference, hub_endpoint
from darkroom.sources.source import RemoteFile, Resolved
from darkroom.sources.web import Passing

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

_SMALL = (
    INDEX,
    "scheduler/scheduler_config.json",
    *(f"{component}/config.json" for component in COMPONENTS),
    *(
        f"{component}/{name}"
        for component in TOKENIZERS
        for name in (
            "added_tokens.json",
            "special_tokens_map.json",
            "tokenizer_config.json",
            ONE_FILE_VOCABULARY,
            *VOCABULARY_FILES,
        )
    ),
)


def single_file(reference: HubReference, names: Collection[str]) -> str:
    """The path of the one file that `reference` means. Raises SourceError (E-SOURCE) if it isn't among `names`."""
    if reference.path is not None and reference.path in names:
        return reference.path
    raise SourceError("source", reference.text, "its repository has no such file", _near(reference, names))


def folder_files(reference: HubReference, names: Collection[str], *, kind: str, dtype: str) -> dict[str, str]:
    """The files of the folder that `reference` means: their paths in the repository by those in the folder.

    Of the weights one variant: for the dtype fp16 the fp16 one where every component has it, else the plain one; for
    others the other way about. Raises SourceError (E-SOURCE) for what isn't such a folder or if a `kind` that is always
    one file is wanted, PickleError (E-PICKLE) for weights that are only there as pickles.
    """
    if reference.path in names:
        why = "is no .safetensors file"
        error = PickleError if PurePosixPath(str(reference.path)).suffix.lower() in PICKLE_ENDINGS else SourceError
        raise error("source", reference.text, why, _near(reference, names))
    if kind != "checkpoint":
        raise SourceError("source", reference.text, f"is a folder, and a {kind} is one file", _near(reference, names))
    start = f"{reference.path}/" if reference.path else ""
    here = {name.removeprefix(start) for name in names if name.startswith(start)}
    if INDEX not in here:
        why = f"is no Diffusers folder: it has no {INDEX}"
        raise SourceError("source", reference.text, why, _near(reference, names))
    chosen = [name for name in _SMALL if name in here]
    for component, variant in _variants(reference, here, dtype).items():
        chosen += _weights(here, component, variant)
    return {name: start + name for name in sorted(chosen)}


def _variants(reference: HubReference, here: Collection[str], dtype: str) -> dict[str, str | None]:
    """Which variant of each component's weights to take; a mixture only where no variant is complete."""
    order = VARIANTS if dtype == "fp16" else VARIANTS[::-1]
    has = {component: [variant for variant in order if _weights(here, component, variant)] for component in COMPONENTS}
    for component, variants in has.items():
        if not variants:
            raise _without_weights(reference, here, component)
    whole = [variant for variant in order if all(variant in variants for variants in has.values())]
    return {component: whole[0] if whole else variants[0] for component, variants in has.items()}


def _weights(here: Collection[str], component: str, variant: str | None) -> list[str]:
    """A component's weights of that variant: the whole file, which wins, or the index and its shards; else nothing."""
    whole, index = weight_path(component, variant), index_path(component, variant)
    if whole in here:
        return [whole]
    if index not in here:
        return []
    shard = re.compile(re.escape(whole.removesuffix(".safetensors")) + r"-\d{5}-of-\d{5}\.safetensors")
    return [index, *filter(shard.fullmatch, here)]


def _without_weights(reference: HubReference, here: Collection[str], component: str) -> PickleError | SourceError:
    weights = [name for name in here if PurePosixPath(name).parent.as_posix() == component]
    if any(PurePosixPath(name).suffix.lower() in PICKLE_ENDINGS for name in weights):
        why = f"has {component} only as a pickle, which can run code"
        return PickleError("source", reference.text, why, "choose a repository or a revision with .safetensors files")
    why = f"is no whole SDXL model: it has no {weight_path(component, None)}"
    return SourceError("source", reference.text, why, "choose another repository")


def _near(reference: HubReference, names: Collection[str]) -> str:
    """A hint with the .safetensors files that may be meant."""
    files = sorted(name for name in names if name.lower().endswith(".safetensors"))
    near = get_close_matches((reference.path or "")[:200], files, n=3, cutoff=0.4) or files[:3]
    if not near:
        return "choose another repository: this one has no .safetensors file"
    texts = [HubReference(reference.repo, shown(name), reference.revision).text for name in near]
    return f"give {' or '.join(texts)}"


_TIMEOUT_S = 30.0
_REFUSED = (401, 403, 404, 410, 451)
_PASSING = (408, 429, 500, 502, 503, 504)


def resolve_hub(reference: HubReference, *, kind: str, version: str | None, dtype: str) -> Resolved:
    """The files that `reference` means; `version`, which the lock file holds, is the commit to take them from.

    Raises SourceError (E-SOURCE) for what isn't there or isn't a `kind`, PickleError (E-PICKLE), AuthError (E-AUTH),
    OfflineError (E-OFFLINE) where HF_HUB_OFFLINE is set, NetworkError (E-NETWORK), Passing for failures that may pass,
    ConfigError (E-CONFIG) for a broken token.
    """
    endpoint = hub_endpoint()
    access = hub_access(f"{endpoint}/{reference.repo}")
    info = _ask(reference, version or reference.revision or "main", endpoint, access)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    commit = info.sha
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise _not_the_hub(reference)
    if reference.is_folder:
        chosen = folder_files(reference, siblings, kind=kind, dtype=dtype)
    else:
        path = single_file(reference, siblings)
        chosen = {path: path}
    # Here, since it takes half a second, and only sources at the Hub need it.
    from huggingface_hub import hf_hub_url

    files = []
    for place, path in chosen.items():
        lfs = siblings[path].lfs
        sha256 = lfs.sha256.lower() if lfs is not None else None
        files.append(
            RemoteFile(
                identity=f"hf:{reference.repo}@{commit}/{path}",
                path=place,
                url=hf_hub_url(reference.repo, path, revision=commit, endpoint=endpoint),
                access=access,
                size=siblings[path].size if lfs is None else lfs.size,
                # Files that aren't in LFS have no SHA256 here, only what git calls them.
                sha256=sha256 if sha256 and re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
            )
        )
    return Resolved(tuple(files), commit, _facts(reference, info, commit, endpoint))


def _ask(reference: HubReference, revision: str, endpoint: str, access: Access) -> ModelInfo:
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
        return api.model_info(reference.repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    except OfflineModeIsEnabled:
        why = "the Hub would have to be asked, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
        raise OfflineError("source", reference.text, why, "unset it, or give the path of a file") from None
    except HfHubHTTPError as error:
        raise _answer_error(reference, access, error) from None
    except HFValidationError:
        raise SourceError("source", reference.text, "no repository has that name", "check it at the Hub") from None
    except ClientError as error:
        raise _connection_error(reference, endpoint, error) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _not_the_hub(reference) from None


def _answer_error(reference: HubReference, access: Access, error: HfHubHTTPError) -> DarkroomError | Passing:
    answer = error.response
    if answer.status_code in _REFUSED:
        return refusal(access, reference.text, answer.status_code, answer.headers, answer.content)
    why = f"{_host(access.origin)} answers {answer.status_code} {shown(answer.reason_phrase, 60)}".rstrip()
    if answer.status_code not in _PASSING:
        return NetworkError("source", reference.text, why, "check the source; the Hub's own pages may say more")
    # `RateLimit: "api";r=0;t=55` where nothing remains (draft-ietf-httpapi-ratelimit-headers).
    limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,6})\b", answer.headers.get("RateLimit", ""), re.ASCII)
    asked = re.fullmatch(r"\s*(\d{1,6})\s*", answer.headers.get("Retry-After", ""), re.ASCII) or limit
    after = float(asked[1]) if asked else None
    return Passing(why, retry_after_s=after, is_rate_limit=answer.status_code == 429)


def _connection_error(reference: HubReference, endpoint: str, error: Exception) -> DarkroomError | Passing:
    host = _host(endpoint)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"{host}: its TLS certificate can't be trusted ({shown(cause.verify_message)})"
            return NetworkError("source", reference.text, why, "check the address, or the clock of this machine")
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if "Timeout" in type(error).__name__:
        return Passing(f"{host} did not answer", is_stall=type(error).__name__ == "ReadTimeout")
    if "resolution" in text or "not known" in text or "No address" in text:
        return Passing(f"{host} can't be found (DNS)")
    if "refused" in text:
        return Passing(f"{host} refuses connections")
    return Passing(f"the connection to {host} failed ({type(error).__name__})")


def _not_the_hub(reference: HubReference) -> NetworkError:
    why = "the answer is not one of the Hub's API"
    return NetworkError("source", reference.text, why, "check HF_ENDPOINT, or try again later")


def _host(address: str) -> str:
    return urlsplit(address).netloc


def _facts(reference: HubReference, info: ModelInfo, commit: str, endpoint: str) -> SourceFacts:
    """What the repository's card says, which its owner wrote."""
    said = getattr(info.card_data, "get", lambda _: None)
    page = f"{endpoint}/{reference.repo}"
    name, link = _text(said("license")), _text(said("license_link"))
    if name == "other":
        name = _text(said("license_name")) or name
    if link is not None and not re.match(r"https?://", link):
        link = f"{page}/blob/{commit}/{quote(link.removeprefix('./'))}"
    words = said("instance_prompt")
    return SourceFacts(
        version=commit,
        name=reference.repo,
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
