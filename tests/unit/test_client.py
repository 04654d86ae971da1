"""The client against a real HTTP server that speaks the contract, and S3 as moto gives it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from contracts import errors
from contracts.generation import Generation, GenerationRequest, Picture, PictureSource
from contracts.pipeline import Run, Subject
from dreamdrop import api
from dreamdrop.client import (
    Client,
    GenerationCancelled,
    NotTaken,
    StillRunning,
    SubjectDeleted,
    make_folder,
)
from dreamdrop.deployment import STACK_OUTPUTS, Deployment

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Answer = tuple[int, Any]


class Server:
    """Answers each request with the next answer for its method and path; the last answer stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                name = f"{self.command} {self.path}"
                headers = {key.lower(): value for key, value in self.headers.items()}
                owner.requests.append((name, headers, body))
                waiting = owner.answers[name]
                status, answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def when(self, name: str, *answers: Answer) -> None:
        self.answers[name] = list(answers)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(api, "PAUSE_SECONDS", 0.01)
    return Client(deployment(server.url))


def deployment(url: str, **where: str) -> Deployment:
    return Deployment(
        region="us-east-1",
        api_url=f"{url}/_aws/execute-api/abc/$default",
        data_bucket="photos",
        table_name="t",
        state_machine_arn="arn:aws:states:us-east-1:000000000000:stateMachine:m",
        subject_topic_arn="arn:aws:sns:us-east-1:000000000000:t",
        **({"endpoint_url": url, "account": "000000000000"} | where),
    )


ROOT = "/_aws/execute-api/abc/$default"
ROBOT = f"GET {ROOT}/v1/subjects/robot"


def subject(run: str = "robot-1", status: Any = "running", stage: Any = "training", **more: Any) -> Answer:
    described = Subject(
        subject="robot",
        ready=status == "succeeded",
        status=status,
        updated_at=NOW,
        run=Run(
            id=run,
            dataset_id="d",
            status="succeeded" if status == "deleting" else status,
            stage=stage,
            stages=[],
            **more,
        ),
    )
    return 200, described.plain()


def refusal(error: errors.DreamdropError) -> Answer:
    return error.status, {"error": error.report.model_dump()}


def generation(status: Any, **more: Any) -> Answer:
    request = GenerationRequest(subject="robot", prompt="a robot")
    return 200, Generation(
        id="0" * 32, status=status, subject="robot", version="v", request=request, created_at=NOW, **more
    ).model_dump(mode="json")


def test_a_token_is_shown_instead_of_a_signature(server: Server) -> None:
    server.when(ROBOT, subject())
    Client(deployment(server.url, token="t.t.t")).subject("robot")
    Client(deployment(server.url)).subject("robot")
    shown, signed = (headers["authorization"] for _, headers, _ in server.requests)
    assert shown == "Bearer t.t.t"
    assert signed.startswith("AWS4-HMAC-SHA256 ")


@pytest.mark.parametrize("token", [None, "t.t.t"])
def test_a_deployment_in_an_account_takes_the_token_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    outputs = {name: {"Value": "{}"} for name in STACK_OUTPUTS}
    template = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": outputs})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("DREAMDROP_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("DREAMDROP_TOKEN", token)
    with mock_aws():
        for stack in ("art-data", "art-service"):
            boto3.client("cloudformation", "us-east-1").create_stack(StackName=stack, TemplateBody=template)
        found = Deployment.in_account("art", "us-east-1").token
    assert (found.get_secret_value() if found else None) == token


def test_a_token_is_not_told_when_a_deployment_is_printed(server: Server) -> None:
    assert "t.t.t" not in repr(deployment(server.url, token="t.t.t"))


def test_subjects_are_listed_page_after_page(client: Client, server: Server) -> None:
    server.when(f"GET {ROOT}/v1/subjects", (200, {"subjects": [subject()[1]], "next": "Grandma's cat & dog"}))
    server.when(f"GET {ROOT}/v1/subjects?after=Grandma%27s%20cat%20%26%20dog", (200, {"subjects": [subject()[1]]}))
    assert [found.subject for found in client.subjects()] == ["robot", "robot"]


def test_every_request_is_signed_for_execute_api(client: Client, server: Server) -> None:
    server.when(f"GET {ROOT}/v1/subjects", (200, {"subjects": [subject()[1]]}))
    assert [found.subject for found in client.subjects()] == ["robot"]
    authorization = server.requests[0][1]["authorization"]
    assert re.match(
        r"AWS4-HMAC-SHA256 Credential=000000000000/\d{8}/us-east-1/execute-api/aws4_request, ", authorization
    )


def test_waiting_hears_each_change_once_and_returns_the_ready_subject(client: Client, server: Server) -> None:
    server.when(
        ROBOT,
        refusal(errors.UnknownSubject("not yet")),
        subject(stage="checking"),
        subject(stage="checking"),
        subject(stage="training"),
        subject(status="succeeded", stage="ready"),
    )
    heard: list[str] = []
    ready = client.wait_until_ready(
        "robot", lambda news: heard.append(news.run.stage if news.run else ""), poll_seconds=0.01
    )
    assert ready.ready
    assert heard == ["checking", "training", "ready"]


def test_a_failed_run_raises_its_own_error_with_cause_and_cure(client: Client, server: Server) -> None:
    report = errors.UnreadableImage("cat.jpg is cut short.").report
    server.when(ROBOT, subject(status="failed", stage="failed", error=report))
    with pytest.raises(errors.UnreadableImage) as caught:
        client.wait_until_ready("robot", poll_seconds=0.01)
    assert caught.value.report == report


def test_waiting_for_a_drop_skips_the_run_that_was_there_before(client: Client, server: Server) -> None:
    server.when(ROBOT, subject("old", "succeeded", "ready"), subject("new"), subject("new", "succeeded", "ready"))
    ready = client.wait_until_ready("robot", newer_than="old", poll_seconds=0.01)
    assert ready.run is not None
    assert ready.run.id == "new"


def test_a_drop_that_changes_nothing_ends_with_the_old_outcome(client: Client, server: Server) -> None:
    server.when(ROBOT, subject("old", "succeeded", "ready"))
    assert client.wait_until_ready("robot", newer_than="old", settle_seconds=0.05, poll_seconds=0.01).ready


GONE = refusal(errors.UnknownSubject("gone"))


@pytest.mark.parametrize(
    ("newer_than", "answers"),
    [
        (None, [subject(), subject(status="deleting")]),
        (None, [subject(), GONE]),
        ("old", [GONE]),
        ("old", [subject("old", "deleting")]),
    ],
)
def test_a_subject_that_is_deleted_while_it_is_waited_for_is_told_as_such(
    client: Client, server: Server, newer_than: str | None, answers: list[Answer]
) -> None:
    server.when(ROBOT, *answers)
    with pytest.raises(SubjectDeleted, match="robot was deleted meanwhile"):
        client.wait_until_ready(
            "robot", newer_than=newer_than, settle_seconds=0.05, timeout_seconds=0.2, poll_seconds=0.01
        )


def test_a_subject_is_deleted_and_waited_for_until_it_is_gone(client: Client, server: Server) -> None:
    server.when(ROBOT.replace("GET", "DELETE"), (202, subject(status="deleting", stage="ready")[1]))
    server.when(ROBOT, subject(status="deleting", stage="ready"), refusal(errors.UnknownSubject("gone")))
    assert client.delete("robot").status == "deleting"
    client.wait_until_gone("robot", poll_seconds=0.01)
    assert [name.partition(" ")[0] for name, _, _ in server.requests] == ["DELETE", "GET", "GET"]


def test_what_was_dropped_under_an_unusable_name_can_be_deleted(client: Client, server: Server) -> None:
    path = f"{ROOT}/v1/subjects/My%20D%C3%B6g%3F"
    server.when(f"DELETE {path}", (202, subject(status="deleting", stage="ready")[1]))
    server.when(f"GET {path}", refusal(errors.UnknownSubject("gone")))
    client.delete("My Dög?")
    client.wait_until_gone("My Dög?", poll_seconds=0.01)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "my/dog"])
def test_what_is_no_folders_name_is_not_sent(client: Client, server: Server, name: str) -> None:
    for ask in (client.subject, client.delete):
        with pytest.raises(errors.UnknownSubject, match=re.escape(repr(name))):
            ask(name)
    assert server.requests == []


def test_a_cancelled_generation_is_told_as_such(client: Client, server: Server) -> None:
    path = f"{ROOT}/v1/generations/{'a' * 32}"
    for method in ("DELETE", "GET"):
        server.when(f"{method} {path}", generation("cancelled"))
    assert client.cancel("a" * 32).status == "cancelled"
    with pytest.raises(GenerationCancelled):
        client.wait_for_generation("a" * 32)


def test_waiting_for_the_end_of_a_deletion_never_hangs(client: Client, server: Server) -> None:
    server.when(ROBOT, subject(status="deleting", stage="ready"))
    with pytest.raises(StillRunning, match="robot"):
        client.wait_until_gone("robot", timeout_seconds=0.05, poll_seconds=0.01)


def test_waiting_never_hangs(client: Client, server: Server) -> None:
    server.when(ROBOT, subject())
    with pytest.raises(StillRunning):
        client.wait_until_ready("robot", timeout_seconds=0.05, poll_seconds=0.01)
    server.when(ROBOT, refusal(errors.UnknownSubject("never")))
    with pytest.raises(NotTaken):
        client.wait_until_ready("robot", settle_seconds=0.05, poll_seconds=0.01)


@pytest.mark.parametrize("kind", [errors.SubjectNotReady, errors.IdempotencyConflict, errors.InvalidRequest])
def test_a_refusal_becomes_the_error_of_its_code(
    client: Client, server: Server, kind: type[errors.DreamdropError]
) -> None:
    server.when(f"POST {ROOT}/v1/generations", refusal(kind("because")))
    with pytest.raises(kind, match="because"):
        client.generate(GenerationRequest(subject="robot", prompt="x"))
    assert len(server.requests) == 1  # what the caller must mend is not asked for again


def test_a_code_of_a_newer_version_is_told_and_not_lost(client: Client, server: Server) -> None:
    server.when(ROBOT, (418, {"error": {"code": "brand_new", "cause": "c", "cure": "the cure"}}))
    with pytest.raises(errors.InternalError, match="brand_new") as caught:
        client.subject("robot")
    assert caught.value.cure == "the cure"


def test_a_refusal_by_the_gateway_itself_is_unauthenticated(client: Client, server: Server) -> None:
    server.when(ROBOT, (403, {"message": "Forbidden"}))
    with pytest.raises(errors.Unauthenticated, match="Forbidden"):
        client.subject("robot")


def test_a_transient_failure_is_repeated_with_the_same_idempotency_key(client: Client, server: Server) -> None:
    server.when(f"POST {ROOT}/v1/generations", (503, b"busy"), generation("queued"))
    assert client.generate(GenerationRequest(subject="robot", prompt="x")).status == "queued"
    keys = [headers["idempotency-key"] for _, headers, _ in server.requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_dead_address_is_unreachable_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAUSE_SECONDS", 0.001)
    with pytest.raises(api.Unreachable) as caught:
        Client(deployment("http://127.0.0.1:1")).subject("robot")
    assert "dreamdrop status" in caught.value.cure


def test_a_generation_is_waited_for_and_its_pictures_are_saved(client: Client, server: Server, tmp_path: Path) -> None:
    name = f"GET {ROOT}/v1/generations/{'0' * 32}"
    images = [Picture(url=f"{server.url}/b/image-0.png?X-Amz-Signature=s", prompt="a robot", seed=1)]
    server.when(name, generation("queued"), generation("succeeded", images=images))
    server.when("GET /b/image-0.png?X-Amz-Signature=s", (200, b"picture"))
    done = client.wait_for_generation("0" * 32, poll_seconds=0.01)
    (saved,) = client.save_images(done, tmp_path / "new")
    assert saved.name == "robot-00000000-0.png"
    assert saved.read_bytes() == b"picture"
    assert "authorization" not in server.requests[-1][1]  # presigned: a second signature would be refused


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        ("failed", errors.OutOfMemory("too large").report, errors.OutOfMemory),
        ("expired", errors.GenerationExpired("too late").report, errors.GenerationExpired),
        ("failed", None, errors.GenerationFailed),
    ],
)
def test_a_generation_that_ends_badly_raises(
    client: Client, server: Server, status: str, error: errors.ErrorReport | None, kind: type[errors.DreamdropError]
) -> None:
    server.when(f"GET {ROOT}/v1/generations/{'0' * 32}", generation(status, error=error))
    with pytest.raises(kind):
        client.wait_for_generation("0" * 32, poll_seconds=0.01)


SOURCES = f"POST {ROOT}/v1/sources"


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    path = tmp_path / "sketch.png"
    path.write_bytes(b"0123456789")
    return path


def source(server: Server, max_bytes: int = 10) -> Answer:
    offered = PictureSource(source_image="sources/a/b", upload_url=f"{server.url}/put?s=1", max_bytes=max_bytes)
    return 201, offered.model_dump()


def test_a_source_picture_is_uploaded_to_the_address_that_the_api_signed(
    client: Client, server: Server, sketch: Path
) -> None:
    server.when(SOURCES, source(server))
    server.when("PUT /put?s=1", (200, b""))
    assert client.upload_source(sketch) == "sources/a/b"
    asked, stored = server.requests
    assert "authorization" in asked[1]
    assert stored[2] == sketch.read_bytes()
    assert "authorization" not in stored[1]  # presigned: a second signature would be refused


def test_a_source_picture_that_is_too_large_is_not_sent(client: Client, server: Server, sketch: Path) -> None:
    server.when(SOURCES, source(server, max_bytes=9))
    with pytest.raises(errors.InvalidRequest, match="at most 9"):
        client.upload_source(sketch)
    assert [name for name, _, _ in server.requests] == [SOURCES]


def test_a_source_picture_that_is_not_there_is_told_before_anything_is_asked(
    client: Client, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidRequest, match="not a file"):
        client.upload_source(tmp_path)
    assert server.requests == []


def test_an_upload_that_is_refused_is_told(client: Client, server: Server, sketch: Path) -> None:
    server.when(SOURCES, source(server))
    server.when("PUT /put?s=1", (403, b"expired"))
    with pytest.raises(api.Unreachable, match="403"):
        client.upload_source(sketch)


def test_what_a_request_leaves_open_is_not_sent(client: Client, server: Server) -> None:
    server.when(f"POST {ROOT}/v1/generations", generation("queued"))
    for more in ({}, {"upscale": 2, "mix": [{"subject": "cat"}]}):
        client.generate(GenerationRequest.model_validate({"subject": "robot", "prompt": "x", **more}))
        assert json.loads(server.requests[-1][2]) == {"subject": "robot", "prompt": "x", **more}


def test_an_expired_picture_address_is_told(client: Client, server: Server, tmp_path: Path) -> None:
    server.when("GET /gone.png", (403, b"expired"))
    images = [Picture(url=f"{server.url}/gone.png", prompt="a robot", seed=1)]
    described = Generation.model_validate(generation("succeeded", images=images)[1])
    with pytest.raises(api.Unreachable, match="403"):
        client.save_images(described, tmp_path)


@pytest.mark.parametrize("folder", ["taken", "taken/new"])
def test_pictures_go_into_folders_only(tmp_path: Path, folder: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(errors.InvalidRequest, match=f"{folder} cannot be a folder"):
        make_folder(tmp_path / folder)


def test_nothing_is_dropped_into_a_subject_that_is_being_deleted(client: Client, server: Server) -> None:
    server.when(f"GET {ROOT}/v1/subjects/robot", (200, subject(status="deleting")[1]))
    with pytest.raises(errors.SubjectNotReady, match="is being deleted"):
        client.newest_run("robot")


@pytest.mark.parametrize("name", ["", "../subjects/robot", "A" * 32, "4f2c…"])
def test_what_is_no_id_of_a_generation_is_not_sent(client: Client, server: Server, name: str) -> None:
    for ask in (client.generation, client.cancel):
        with pytest.raises(errors.UnknownGeneration, match="32 digits"):
            ask(name)
    assert server.requests == []
