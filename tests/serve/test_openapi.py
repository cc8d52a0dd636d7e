"""The OpenAPI document and the server keep to each other: schemathesis sends what it allows and what it doesn't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve.stand import KEY, Stand
from tests.unit.warm.bench import LIMIT_S

EXCLUDED = (
    "negative_data_rejection",  # "7" for 7 and 0 for false are taken, as AUTOMATIC1111 takes them
    "positive_data_acceptance",  # names of samplers, models and LoRAs, and what fits together, stand in no schema
)


def document_of(one: Stand) -> dict[str, Any]:
    document: dict[str, Any] = one.get("/openapi.json").json()
    return document


@pytest.mark.full
def test_schemathesis_finds_nothing(locked: Stand, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", f"{locked.url}/openapi.json"),
        *("--checks", "all", "--exclude-checks", ",".join(EXCLUDED)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--generation-deterministic"),
        *("--header", f"Authorization: Bearer {KEY}", "--warnings", "off", "--no-color"),
        *("--request-timeout", str(LIMIT_S), "--max-response-time", str(LIMIT_S)),  # 10 s otherwise
        *("--suppress-health-check", "too_slow"),
    ]
    before = len(locked.noted("finished"))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Tested: " in done.stdout
    assert len(locked.noted("finished")) > before
    assert "Traceback" not in locked.log


def test_every_route_documents_its_errors_in_one_shape(fake: Stand) -> None:
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    for path, methods in document_of(fake)["paths"].items():
        for method, about in methods.items():
            answers = about["responses"]
            for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503, 504, 507):
                assert answers[str(status)]["content"] == schema, f"{method} {path} {status}"


def test_the_settings_of_a_picture_are_documented(fake: Stand) -> None:
    content = document_of(fake)["paths"]["/render"]["post"]["requestBody"]["content"]
    body = content["application/json"]["schema"]["properties"]["request"]
    assert body["required"] == ["prompt"]
    assert body["additionalProperties"] is False
    assert body["properties"]["cfg_scale"]["maximum"] == 100
    assert "turbo" in body["properties"]["preset"]["enum"]
    inpaint = body["properties"]["stages"]["items"]["properties"]["inpaint"]
    assert inpaint["properties"]["mask"]["type"] == "string"
    assert "pattern" not in inpaint["properties"]["mask"] | body["properties"]["image"]["anyOf"][0]
    assert content["multipart/form-data"]["schema"]["additionalProperties"]["format"] == "binary"


def test_the_key_is_documented_where_it_is_asked_for(locked: Stand) -> None:
    document = document_of(locked)
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            is_asked = locked.ask(method, path).status_code == 401
            assert is_asked == ("security" in about), f"{method} {path}"


def test_a_method_that_a_path_has_not_is_told_those_it_has(fake: Stand) -> None:
    for path, methods in document_of(fake)["paths"].items():
        answer = fake.ask("DELETE", path)
        assert answer.status_code == 405, path
        allowed = {method.upper() for method in methods} | ({"HEAD"} if "get" in methods else set())
        assert set(answer.headers["allow"].split(", ")) == allowed
