"""The servers that downloads are tested against do what they say."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants as hub_constants
from huggingface_hub import errors as hub_errors

from darkroom.checkpoint.header import read_header
from tests.fixtures.remote import (
    HOSTILE_NAMES,
    Answer,
    Fault,
    FileServer,
    Resource,
    WrongRange,
    cut,
    disposition,
    lfs_pointer,
    login_page,
    make_certificate,
    rate_limited,
    redirect,
    refused_url,
    reset,
    stall,
)
from tests.fixtures.remote import civitai as civitai_service
from tests.fixtures.remote import hub as hub_service
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.civitai_catalogue import CivitaiFile, CivitaiModel, CivitaiVersion
from tests.fixtures.remote.hub import Hub
from tests.fixtures.remote.weights import checkpoint_bytes, make_weights

DATA = make_weights(200_000)
JSON = {"Content-Type": "application/json"}


class Got:
    """An answer as a plain client has it; `body` is what came, `error` the exception it ended with."""

    def __init__(self, url: str, method: str = "GET", **headers: str) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        self.status, self.body, self.error = 0, b"", ""
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        try:
            connection.request(method, target, headers={k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            self.status, self.headers = response.status, response.headers
            self.body = response.read()
        except http.client.IncompleteRead as error:
            self.body, self.error = error.partial, "IncompleteRead"
        except OSError as error:
            self.error = type(error).__name__
        finally:
            connection.close()

    @property
    def json(self) -> object:
        return json.loads(self.body)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def serve(server: FileServer, *faults: Fault, **fields: object) -> str:
    server.add("/x", Resource(DATA, faults=list(faults), **fields))  # type: ignore[arg-type]
    return server.url("/x")


def test_a_file_and_what_was_asked(server: FileServer) -> None:
    got = Got(serve(server) + "?a=1", Range="bytes=100-299", Authorization="Bearer t")
    assert (got.status, got.body) == (206, DATA[100:300])
    assert got.headers["Content-Range"] == f"bytes 100-299/{len(DATA)}"
    assert Got(server.url("/x", "127.0.0.1"), "HEAD").headers["Content-Length"] == str(len(DATA))
    first, second = server.requests("/x")
    assert (first.method, first.query, first.range, first.bearer) == ("GET", {"a": "1"}, "bytes=100-299", "t")
    assert (first.status, first.sent, first.is_complete) == (206, 200, True)
    assert (first.host.split(":")[0], second.host.split(":")[0], second.method) == ("localhost", "127.0.0.1", "HEAD")
    assert (server.bytes_sent("/x"), server.connections(), len(server.requests("/y"))) == (200, 2, 0)


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=199990-", 206, slice(199_990, None)),
        ("bytes=-10", 206, slice(199_990, None)),
        ("bytes=0-999999", 206, slice(0, None)),
        ("bytes=5-4", 200, slice(0, None)),
        ("bytes=0-1,4-5", 200, slice(0, None)),
        ("bytes=200000-", 416, slice(0, 0)),
    ],
)
def test_ranges(asked: str, status: int, part: slice, server: FileServer) -> None:
    got = Got(serve(server), Range=asked)
    assert (got.status, got.body) == (status, DATA[part])
    if status == 416:
        assert got.headers["Content-Range"] == "bytes */200000"


@pytest.mark.parametrize(
    ("fields", "condition", "status"),
    [
        ({}, '"v1"', 206),
        ({}, '"v2"', 200),
        ({}, "Wed, 01 Jul 2026 10:00:00 GMT", 206),
        ({}, "Wed, 01 Jul 2026 10:00:01 GMT", 200),
        ({"etag": 'W/"v1"'}, 'W/"v1"', 200),
        ({"etag": None, "last_modified": None}, '"v1"', 200),
        ({"checks_if_range": False}, '"v2"', 206),
        ({"accept_ranges": False}, '"v1"', 200),
    ],
)
def test_if_range(fields: dict[str, object], condition: str, status: int, server: FileServer) -> None:
    assert Got(serve(server, **fields), Range="bytes=5-", If_Range=condition).status == status


def test_another_content_from_the_second_request_on(server: FileServer) -> None:
    url, other = serve(server), make_weights(len(DATA), seed=1)
    resource = server.target("/x")
    assert isinstance(resource, Resource)
    resource.change(after=1, content=other, etag='"v2"')
    assert (Got(url).body, Got(url).body) == (DATA, other)
    resource.change(etag=None)
    assert "ETag" not in Got(url).headers


def test_wrong_ranges(server: FileServer) -> None:
    lies = [WrongRange(shift=3), WrongRange(size=7), WrongRange(short=2), WrongRange(header=False)]
    url = serve(server, wrong_ranges=lies)
    told = [Got(url, Range="bytes=10-19") for _ in range(5)]
    assert [got.headers["Content-Range"] for got in told] == [
        "bytes 13-22/200000",
        "bytes 10-19/7",
        "bytes 10-11/200000",
        None,
        "bytes 10-19/200000",
    ]
    assert (told[0].body, told[2].body, told[4].body) == (DATA[13:23], DATA[10:12], DATA[10:20])


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_cut_once_after_so_many_bytes(framing: str, server: FileServer) -> None:
    url = serve(server, cut(70_001), framing=framing)
    broken, whole = Got(url), Got(url)
    assert (broken.error, broken.body) == ("IncompleteRead", DATA[:70_001])
    assert (whole.error, whole.body) == ("", DATA)
    assert [(request.sent, request.is_complete) for request in server.requests()] == [(70_001, False), (200_000, True)]


def test_cuts_elsewhere(server: FileServer) -> None:
    url = serve(server, cut(at=1000, times=None), reset(2000), cut())
    assert len(Got(url, Range="bytes=990-1100").body) == 10
    assert Got(url, Range="bytes=5000-9000").error == "ConnectionResetError"
    assert Got(url, Range="bytes=5000-9000").error == "RemoteDisconnected"
    assert Got(url, Range="bytes=5000-9000").body == DATA[5000:9001]
    assert len(Got(url).body) == 1000


def test_all_answers_are_cut_at_a_total(server: FileServer) -> None:
    url = serve(server, cut(total=80_000), stall(0, times=4), rate=1e6)
    results: list[Got] = []
    ranges = [f"bytes={start}-{start + 49_999}" for start in range(0, 200_000, 50_000)]
    threads = [threading.Thread(target=lambda part=part: results.append(Got(url, Range=part))) for part in ranges]
    for thread in threads:
        thread.start()
    server.wait_until(lambda: [request.order for request in server.active()] == ["stall"] * 4)
    server.release()
    for thread in threads:
        thread.join()
    assert sum(len(got.body) for got in results) == server.bytes_sent("/x") == 80_000
    assert Got(url).body == DATA


def test_a_stall_until_released_and_an_order_to_cut(server: FileServer) -> None:
    url = serve(server, stall(1000, times=2))
    for orders in (lambda: server.release("/x"), lambda: server.order("cut", "/x")):
        results: list[Got] = []
        thread = threading.Thread(target=lambda results=results: results.append(Got(url)))
        thread.start()
        server.wait_stalled("/x")
        assert [request.sent for request in server.active("/x")] == [1000]
        orders()
        thread.join()
        assert results[0].body == (DATA if len(server.requests()) == 1 else DATA[:1000])


def test_a_client_that_leaves_ends_its_answer(server: FileServer) -> None:
    connection = http.client.HTTPConnection("localhost", urlsplit(serve(server, stall(1000))).port)
    connection.request("GET", "/x")
    connection.getresponse().close()
    server.wait_stalled("/x")
    connection.close()
    server.wait_until(lambda: not server.active())
    (request,) = server.requests("/x")
    assert (request.sent, request.is_complete) == (1000, False)


def test_a_pace_for_all_together(server: FileServer) -> None:
    url, began = serve(server, total_rate=200_000), time.monotonic()
    threads = [threading.Thread(target=Got, args=(url,), kwargs={"Range": "bytes=0-39999"}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 0.2


def test_a_pace(server: FileServer) -> None:
    url, began = serve(server, rate=100_000), time.monotonic()
    assert len(Got(url, Range="bytes=0-29999").body) == 30_000
    assert time.monotonic() - began > 0.2


def test_shutdown_does_not_wait_for_anybody() -> None:
    with FileServer() as server:
        urls = [serve(server, stall(0), stall(10), rate=10.0), server.url("/x"), server.url("/x")]
        threads = [threading.Thread(target=Got, args=(url,)) for url in urls]
        for thread in threads:
            thread.start()
        server.wait_until(lambda: len(server.active("/x")) == 3)
        began = time.monotonic()
    assert time.monotonic() - began < 30  # what is under way would take minutes
    for thread in threads:
        thread.join()


def test_answers_that_come_first(server: FileServer) -> None:
    url = serve(server)
    server.first("/x", Answer(503), rate_limited(5), rate_limited(), login_page(), lfs_pointer(DATA))
    got = [Got(url) for _ in range(6)]
    assert [each.status for each in got] == [503, 429, 429, 200, 200, 200]
    assert [each.headers.get("Retry-After") for each in got[1:3]] == ["5", None]
    assert got[3].headers.get_content_type() == "text/html"
    assert (got[4].body[:8], got[5].body) == (b"version ", DATA)


def test_framings_and_encodings(server: FileServer) -> None:
    url = serve(server, framing="close")
    whole, short = Got(url), Got(url.replace("/x", "/y"))
    assert (whole.body, whole.headers.get("Content-Length")) == (DATA, None)
    assert short.status == 404
    packed = Got(serve(server, compressed=True), Range="bytes=5-")
    assert (packed.status, packed.headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(packed.body) == DATA


def test_hostile_names_reach_the_client(server: FileServer) -> None:
    for number, name in enumerate(HOSTILE_NAMES):
        server.add(f"/{number}", Resource(DATA[:10], headers=[disposition(name)]))
        assert "filename" in Got(server.url(f"/{number}")).headers["Content-Disposition"]


def test_redirects_to_a_signed_url_that_expires(server: FileServer) -> None:
    with FileServer(host="127.0.0.1") as store:
        store.add("/x", Resource(DATA, signed=True))
        server.add("/get", store.sign_redirect("/x", uses=1))
        server.add("/loop", redirect(server.url("/loop"), headers=[("Set-Cookie", "a=b")]))
        signed = Got(server.url("/get")).headers["Location"]
        assert signed.startswith(f"http://127.0.0.1:{store.port}/x?X-Amz-")
        assert Got(signed, Authorization="Bearer t").status == 400
        assert [Got(signed, "HEAD").status, Got(signed).status, Got(signed).status] == [403, 200, 403]
        again = store.sign("/x")
        store.expire("/x")
        assert [Got(again).status, Got(store.url("/x")).status] == [403, 403]
        assert Got(server.url("/loop")).headers["Location"] == server.url("/loop")
        assert store.bytes_sent("/x") > len(DATA)


def test_a_token_and_a_port_where_nobody_listens(server: FileServer) -> None:
    url = serve(server, token="t")
    assert [Got(url).status, Got(url, Authorization="Bearer t").status] == [401, 200]
    assert Got(refused_url()).error == "ConnectionRefusedError"


def test_tls_that_nobody_trusts(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with FileServer(certificate=certificate) as server:
        server.add("/x", Resource(DATA))
        for trusted in (None, certificate.path):
            context = ssl.create_default_context(cafile=trusted)
            connection = http.client.HTTPSConnection("localhost", server.port, context=context)
            try:
                connection.request("GET", "/x")
                assert connection.getresponse().read() == DATA
            except ssl.SSLCertVerificationError:
                assert trusted is None
            finally:
                connection.close()
        assert (server.connections(), len(server.requests())) == (2, 1)


def test_a_fault_of_the_server_itself_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), FileServer() as server:
        server.add("/x", lambda request: Answer(1 // 0))
        Got(server.url("/x"))


def test_weights_of_any_size(tmp_path: Path) -> None:
    for size in (200, 1_033, 10_009, 99_999, 100_080, 1_000_003):
        path = tmp_path / "w.safetensors"
        path.write_bytes(make_weights(size))
        assert path.stat().st_size == size == read_header(path).file_size
    assert make_weights(200, seed=1) != make_weights(200)
    assert make_weights(200) == make_weights(200)


def test_the_program_serves_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    command = [sys.executable, "-m", "tests.fixtures.remote.serve", str(path), "--rate", "1e7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert Got(process.stdout.readline().strip(), Range="bytes=7-").body == DATA[7:]
        os.kill(process.pid, signal.SIGTERM)
        told = json.loads(process.stdout.read())
    assert (told["requests"], told["connections"], told["at_once"], told["bytes"]) == (1, 1, 1, len(DATA) - 7)


@pytest.fixture
def civitai() -> Iterator[Civitai]:
    with Civitai() as civitai:
        yield civitai


def test_civitai_tells_of_a_version_and_gives_its_file_to_nobody_else(civitai: Civitai) -> None:
    pickle = CivitaiFile(302, b"\x80\x02.", name="tiny.ckpt", format="PickleTensor", size="full", fp="fp32")
    version = CivitaiVersion(201, [CivitaiFile(301, DATA, primary=True), pickle], trained_words=("spark",))
    civitai.add(CivitaiModel(101, [version]))
    told = Got(f"{civitai.endpoint}/api/v1/model-versions/201").json
    assert isinstance(told, dict)
    file = told["files"][0]
    assert (told["modelId"], told["model"]["type"], told["trainedWords"]) == (101, "Checkpoint", ["spark"])
    assert (file["sizeKB"], file["primary"], file["metadata"]["fp"]) == (len(DATA) / 1024, True, "fp16")
    assert file["hashes"]["SHA256"].startswith(file["hashes"]["AutoV2"])
    assert file["hashes"]["SHA256"].isupper()
    by_hash = Got(f"{civitai.endpoint}/api/v1/model-versions/by-hash/{file['hashes']['AutoV2']}").json
    assert by_hash == told
    model = Got(f"{civitai.endpoint}/api/v1/models/101").json
    assert isinstance(model, dict)
    assert (model["allowNoCredit"], [each["id"] for each in model["modelVersions"]]) == (True, [201])
    for query, content in (("?fileId=302", pickle.content), ("", DATA), ("?format=PickleTensor", pickle.content)):
        sent = Got(f"{civitai.endpoint}/api/download/models/201{query}")
        assert (sent.status, urlsplit(sent.headers["Location"]).hostname) == (307, "127.0.0.1")
        assert Got(sent.headers["Location"]).body == content
    assert Got(f"{civitai.endpoint}/api/v1/models/9").status == 404


def test_civitai_has_files_for_some_only(civitai: Civitai) -> None:
    model = civitai.add_file(DATA)
    url = f"{civitai.endpoint}/api/download/models/201"
    token = {"Authorization": f"Bearer {civitai_service.TOKEN}"}
    model.versions[0].policy = "login"
    assert Got(url, **JSON).status == 401
    page = Got(url)
    assert page.status == 307
    assert b"<html>" in Got(civitai.endpoint + page.headers["Location"]).body
    assert Got(url, **token).status == 307
    model.versions[0].policy = "early"
    early = Got(url, **token, **JSON)
    assert (early.status, early.json) == (403, {"error": "Early Access", "deadline": "2026-12-24T08:00:00.000Z"})
    model.archived = True
    told = Got(f"{civitai.endpoint}/api/v1/model-versions/201").json
    assert isinstance(told, dict)
    assert (told["files"], Got(url, **token).status) == ([], 404)
    civitai.publish(model, CivitaiVersion(202, [CivitaiFile(303, DATA)]))
    assert [version.id for version in model.versions] == [202, 201]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Hub() as hub:
        yield hub
        huggingface_hub.close_session()


def test_the_hubs_own_client_takes_it_for_the_hub(hub: Hub, tmp_path: Path) -> None:
    files = {"model_index.json": b"{}", "unet/model.safetensors": DATA}
    repository = hub.add("someone/tiny", files, license="mit")
    old = repository.main
    api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=hub_service.TOKEN)
    info = api.model_info("someone/tiny", files_metadata=True)
    assert (info.sha, info.card_data and info.card_data["license"]) == (old, "mit")
    plain, large = info.siblings or []
    assert (plain.rfilename, plain.size, plain.lfs) == ("model_index.json", 2, None)
    assert (large.size, large.lfs and large.lfs.size) == (len(DATA), len(DATA))
    new = repository.commit({"model_index.json": b'{"a": 1}'})
    assert api.model_info("someone/tiny").sha == new
    assert api.model_info("someone/tiny", revision=old[:9]).sha == old

    def fetch(path: str, revision: str) -> bytes:
        found = huggingface_hub.hf_hub_download(
            "someone/tiny",
            path,
            revision=revision,
            endpoint=hub.endpoint,
            cache_dir=tmp_path,
            token=hub_service.TOKEN,
        )
        return Path(found).read_bytes()

    assert (fetch("unet/model.safetensors", "main"), fetch("model_index.json", old)) == (DATA, b"{}")
    (sent,) = hub.store.requests(hub.store_path(DATA))
    assert (sent.status, sent.bearer) == (200, None)
    assert hub.api.requests(f"/someone/tiny/resolve/{old}/model_index.json", "HEAD")[0].bearer == hub_service.TOKEN
    listed = api.list_repo_tree("someone/tiny", recursive=True)
    assert sorted(entry.path for entry in listed) == ["model_index.json", "unet", "unet/model.safetensors"]
    assert [entry.path for entry in api.list_repo_tree("someone/tiny", "unet")] == ["unet/model.safetensors"]
    whole = api.snapshot_download("someone/tiny", cache_dir=tmp_path / "other")
    assert (Path(whole) / "unet/model.safetensors").read_bytes() == DATA


@pytest.mark.parametrize(
    ("id", "options", "token", "error"),
    [
        ("someone/none", {}, hub_service.TOKEN, hub_errors.RepositoryNotFoundError),
        ("someone/none", {}, False, hub_errors.HfHubHTTPError),
        ("someone/tiny", {"revision": "none"}, False, hub_errors.RevisionNotFoundError),
        ("someone/tiny", {"filename": "none"}, False, hub_errors.EntryNotFoundError),
        ("someone/tiny", {}, "hf_wrong", hub_errors.HfHubHTTPError),
        ("someone/gated", {}, False, hub_errors.GatedRepoError),
        ("someone/gated", {}, hub_service.STRANGER_TOKEN, hub_errors.GatedRepoError),
        ("someone/private", {}, hub_service.STRANGER_TOKEN, hub_errors.RepositoryNotFoundError),
        ("someone/gated", {}, hub_service.TOKEN, None),
        ("someone/private", {}, hub_service.TOKEN, None),
    ],
)
def test_the_hub_refuses_as_its_client_expects(
    id: str, options: dict[str, str], token: str | bool, error: type[Exception] | None, hub: Hub, tmp_path: Path
) -> None:
    hub.add("someone/tiny", {"a.json": b"{}"})
    hub.add("someone/gated", {"a.json": b"{}"}, gated="auto")
    hub.add("someone/private", {"a.json": b"{}"}, private=True)
    asked: dict[str, Any] = {
        "filename": "a.json",
        **options,
        "endpoint": hub.endpoint,
        "cache_dir": str(tmp_path),
        "token": token,
    }
    if error is None:
        assert Path(huggingface_hub.hf_hub_download(id, **asked)).read_bytes() == b"{}"
    else:
        with pytest.raises(error):
            huggingface_hub.hf_hub_download(id, **asked)


def test_the_hub_with_tls_is_taken_for_the_hub_in_all_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    with Hub(certificate=certificate) as hub:
        huggingface_hub.close_session()  # one that doesn't know the certificate
        with pytest.raises(hub_errors.RepositoryNotFoundError):
            huggingface_hub.HfApi(endpoint=hub.endpoint, token=False).model_info("someone/none")
        huggingface_hub.close_session()


def test_a_file_of_the_hub_can_fail(hub: Hub) -> None:
    content = checkpoint_bytes()
    hub.add("someone/tiny", {"a.safetensors": content})
    hub.resource(content).add_fault(cut(1000))
    location = Got(f"{hub.endpoint}/someone/tiny/resolve/main/a.safetensors").headers["Location"]
    assert [len(Got(location).body), len(Got(location).body)] == [1000, len(content)]
