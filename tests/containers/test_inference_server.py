"""The serving program as SageMaker runs it: a process, HTTP, signals, crashes."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contracts.artifact import LORA_WEIGHTS
from contracts.errors import EndpointBusy, ErrorReport, GenerationFailed
from contracts.generation import InferenceAnswer, InferencePayload
from inference_container.payload import Invocation
from inference_container.worker_process import WorkerProcess
from tests.containers.inference_parts import (
    BUCKET,
    REPOSITORY,
    RunningServer,
    describe_files,
    is_alive,
    make_lora,
    publish,
    running_server,
    s3_server,
    version_manifest,
)

VERSION = "0123456789ab-1"
LONG = {"prompt": "a dog", "num_images_per_prompt": 8, "num_inference_steps": 120, "width": 256, "height": 256}

linux_only = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes through /proc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tiny_base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for the whole file, with the LoRA subjects rex, cold and bad (damaged) in its bucket."""
    root = tmp_path_factory.mktemp("serving")
    with s3_server() as (endpoint, s3):
        rex = make_lora(tiny_base_model, root / "rex", seed=1)
        for subject in ("rex", "cold", "bad"):
            manifest = version_manifest(tiny_base_model, subject, VERSION, describe_files(rex))
            publish(s3, manifest, rex)
        s3.put_object(Bucket=BUCKET, Key=manifest.prefix + LORA_WEIGHTS, Body=b"damaged")
        base = root / "base"
        base.mkdir()
        variables = {"DATA_BUCKET": BUCKET, "AWS_ENDPOINT_URL": endpoint}
        with running_server(base, tiny_base_model, free_port(), **variables) as running:
            running.wait_for_ping(503, 5)  # it answers before the model is loaded
            running.wait_for_ping(200)
            yield running


def image_of(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_the_documented_json_request_is_answered_with_rgb_arrays(server: RunningServer) -> None:
    body = {"prompt": "astronaut on a horse", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
    answer = server.call("POST", "/invocations", body, content_type="application/json", accept="application/json")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body)
    document = answer.json()
    assert document.keys() == {"generated_images", "prompt"}
    assert document["prompt"] == "astronaut on a horse"
    assert np.asarray(document["generated_images"]).shape == (1, 64, 64, 3)


def test_the_documented_text_request_is_answered_under_the_singular_key(server: RunningServer) -> None:
    answer = server.call(
        "POST", "/invocations", b"astronaut on a horse", content_type="application/x-text", accept="application/json"
    )
    assert answer.json().keys() == {"generated_image", "prompt"}
    assert np.asarray(answer.json()["generated_image"]).shape == (64, 64, 3)
    jpeg = server.call(
        "POST", "/invocations", b"a dog", content_type="application/x-text", accept="application/json;jpeg"
    )
    assert image_of(jpeg.json()["generated_image"]).shape == (64, 64, 3)


def test_base64_answers_carry_seeds_and_timings_and_png_is_exact(server: RunningServer) -> None:
    body = {"prompt": ["a dog", "a cat"], "num_inference_steps": 2, "seed": 5, "num_images_per_prompt": 2}
    forms = {}
    for form in ("application/json", "application/json;jpeg", "application/json;png"):
        answer = server.call("POST", "/invocations", body, content_type="application/json;jpeg", accept=form)
        assert answer.status == 200, answer.body
        forms[form] = answer.body
    png = InferenceAnswer.model_validate_json(forms["application/json;png"])
    jpeg = InferenceAnswer.model_validate_json(forms["application/json;jpeg"])
    assert png.seeds == jpeg.seeds == [5, 6, 7, 8]
    assert png.prompt == ["a dog", "a cat"]
    assert (png.timings.load_ms, png.timings.compute_ms > 0) == (0, True)
    exact = np.asarray(json.loads(forms["application/json"])["generated_images"])
    assert np.array_equal(np.stack([image_of(one) for one in png.generated_images]), exact)
    assert base64.b64decode(jpeg.generated_images[0])[:3] == b"\xff\xd8\xff"


def test_unknown_headers_and_queries_are_ignored(server: RunningServer) -> None:
    answer = server.call(
        "POST",
        "/invocations?x=1",
        {"prompt": "a dog", "num_inference_steps": 1},
        x_amzn_sagemaker_custom_attributes="accept_eula=true",
        x_amzn_sagemaker_inference_id="abc",
    )
    assert answer.status == 200


def test_the_same_seed_draws_the_same_picture(server: RunningServer) -> None:
    first, again, other = (server.draw(prompt="a dog", seed=seed).json() for seed in (3, 3, 4))
    assert first["generated_images"] == again["generated_images"] != other["generated_images"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompt": "x" * 10_000}, "prompt"),
        ({"prompt": "a", "width": 65}, "width"),
        ({"prompt": "a", "seed": "abc"}, "seed"),
        ({"prompt": "a", "steps": 3}, "steps"),
        ({"prompt": ["a", "b"], "negative_prompt": "c"}, "negative_prompt"),
        (b"\xff\xfe", "body"),
        (b"", "body"),
        (b"{", "body"),
    ],
)
def test_a_malformed_request_is_a_400_that_names_the_field(server: RunningServer, body: Any, named: str) -> None:
    answer = server.call("POST", "/invocations", body, content_type="application/json")
    assert answer.status == 400
    report = ErrorReport.model_validate_json(answer.body)
    assert report.code == "invalid_request"
    assert named in report.cause


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/ping", 405),
        ("GET", "/invocations", 405),
        ("BREW", "/ping", 405),
        ("PUT", "/", 405),
    ],
)
def test_other_routes_and_methods_are_refused(server: RunningServer, method: str, path: str, status: int) -> None:
    answer = server.call(method, path)
    assert answer.status == status
    assert ErrorReport.model_validate_json(answer.body).code == "invalid_request"


def raw_exchange(server: RunningServer, content: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", 400),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET /ping HTTP/9.9\r\n\r\n", 505),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /ping HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_broken_http_is_refused_with_a_length_and_the_connection_closed(
    server: RunningServer, content: bytes, status: int
) -> None:
    head, _, body = raw_exchange(server, content).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
    ErrorReport.model_validate_json(body)


def test_one_connection_carries_many_requests(server: RunningServer) -> None:
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    bad = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{"
    answers = raw_exchange(server, ping + bad + ping)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.count(b"HTTP/1.1 400") == 1


def malformed_bodies(count: int) -> Iterator[bytes]:
    """Valid requests with a field made wrong, bytes flipped or the end cut off."""
    dice = random.Random(20260101)
    junk = [None, True, -1, 0, 1e300, float("nan"), "", "x" * 3000, [], [[]], {}, {"a": []}, "\ud800", 2**70, ["a"] * 9]
    fields = ["prompt", "width", "height", "seed", "num_inference_steps", "guidance_scale", "scheduler", "subject"]
    fields += ["x", "\ud800"]
    for _ in range(count):
        request: dict[str, Any] = {"prompt": "a dog", "num_inference_steps": 1, "subject": "nobody"}
        for _ in range(dice.randint(1, 3)):
            request[dice.choice(fields)] = dice.choice(junk)
        body = bytearray(json.dumps(request).encode())
        kind = dice.random()
        if kind < 0.25:
            body = body[: dice.randrange(len(body))]
        elif kind < 0.5:
            body[dice.randrange(len(body))] = dice.randrange(256)
        yield bytes(body)


def test_two_hundred_random_malformed_bodies_are_the_callers_fault(server: RunningServer) -> None:
    statuses = [
        server.call("POST", "/invocations", body, content_type="application/json").status
        for body in malformed_bodies(200)
    ]
    assert {status // 100 for status in statuses} == {4}
    assert server.call("GET", "/ping").status == 200


def test_a_subject_is_fetched_from_the_bucket_once_for_two_requests(server: RunningServer) -> None:
    base = server.draw(prompt="a dog", seed=1).json()["generated_images"]
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda _: server.draw(prompt="a dog", seed=1, subject="rex", version=VERSION), range(2))
        )
    assert [answer.status for answer in answers] == [200, 200]
    loads = sorted(answer.json()["timings"]["load_ms"] for answer in answers)
    assert loads[1] > 0
    assert loads[0] in (0, loads[1])  # the second came later, or both waited for the one loading
    drawn = [answer.json()["generated_images"] for answer in answers]
    assert drawn[0] == drawn[1] != base
    assert server.draw(prompt="a dog", seed=1).json()["generated_images"] == base


def test_an_unknown_subject_is_404_and_a_damaged_one_500_with_a_code(server: RunningServer) -> None:
    unknown = server.draw(prompt="a dog", subject="nobody", version=VERSION)
    assert (unknown.status, unknown.json()["code"]) == (404, "unknown_subject")
    damaged = server.draw(prompt="a dog", subject="bad", version=VERSION)
    assert (damaged.status, damaged.json()["code"]) == (500, "hosting_failed")
    assert server.draw(prompt="a dog").status == 200


def test_ping_is_answered_at_once_while_many_pictures_are_made(server: RunningServer) -> None:
    latencies = []
    body = {"prompt": "a dog", "num_inference_steps": 4}
    with ThreadPoolExecutor(32) as pool:
        drawing = [pool.submit(server.call, "POST", "/invocations", body) for _ in range(32)]
        while not all(one.done() for one in drawing):
            started = time.monotonic()
            assert server.call("GET", "/ping").status == 200
            latencies.append(time.monotonic() - started)
            time.sleep(0.01)
        assert {one.result().status for one in drawing} == {200}
    assert len(latencies) > 10
    assert max(latencies) < 2


def test_requests_for_one_cold_subject_load_it_once(server: RunningServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.draw, prompt="a dog", subject="cold", version=VERSION, seed=1) for _ in range(4)]
        answers = [one.result(60).json() for one in asked]
    assert len({answer["generated_images"][0] for answer in answers}) == 1
    assert server.log.read_text().count("loaded cold") == 1


def bad_bodies(count: int, chance: random.Random) -> Iterator[bytes]:
    """Each is wrong in some way: cut off, garbled, of a wrong type, out of range, with strange fields."""
    wrong: list[Any] = [None, [], {}, "", -1, 0, 10**30, 1.5, "x" * 5000, [[1]], {"a": 1}, True, "\x00", float("nan")]
    wrong_of: dict[str, list[Any]] = {
        "prompt": [None, [], {}, "", 7, [""], [None], True, "x" * 5000],
        "negative_prompt": [[], {}, 7, True, ["a"], "x" * 5000],
        **{field: [w for w in wrong if w is not None] for field in ("width", "height", "num_images_per_prompt")},
        **{field: [[], {}, "", -1, 10**30, "x", "\x00"] for field in ("num_inference_steps", "seed")},
        "guidance_scale": [[], {}, "", -51, 10**30, "x", "\x00"],
        **{field: [[], {}, 7, True, "", "..", "\x00"] for field in ("scheduler", "subject", "version", "source_image")},
        **{field: [[], {}, "", -1, 10**30, "x", None] for field in ("lora_scale", "upscale")},
        "mix": [7, {}, "rex", [{}], [{"subject": ".."}], [[1]], [{"subject": "tom", "\ud800": True}], None],
        "strength": [[], {}, "", -1, 0.5, 10**30, "x"],
    }
    for number in range(count):
        kind = number % 4
        field = chance.choice(list(wrong_of))
        document = json.dumps({"prompt": "a dog", "width": 64, field: chance.choice(wrong_of[field])}).encode()
        if kind == 0:
            yield document
        elif kind == 1:
            yield document[: chance.randrange(1, len(document))]
        elif kind == 2:
            unknown = chance.choice("abcdefg\u00e9 \ud800") * 3
            yield json.dumps({"prompt": "a dog", unknown: chance.choice(wrong)}).encode()
        else:
            garbled = bytearray(document)
            garbled[chance.randrange(len(garbled))] = chance.choice(b'{}[]":,\x00\xff\x80')
            yield b"{" + bytes(garbled)


def test_ten_thousand_bad_bodies_are_each_the_callers_fault(server: RunningServer) -> None:
    worker = server.worker_pid() if Path("/proc/self/task").exists() else None
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for body in bad_bodies(10_000, random.Random(5)):
        connection.request("POST", "/invocations", body, server.headers)
        response = connection.getresponse()
        answer = response.read()
        assert 400 <= response.status < 500, body
        assert ErrorReport.model_validate_json(answer).cause, body
    connection.close()
    assert server.draw(prompt="a dog").status == 200
    assert worker is None or server.worker_pid() == worker


@linux_only
def test_a_killed_worker_fails_its_request_only_and_ping_says_503_until_the_next_is_ready(
    server: RunningServer,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        doomed = pool.submit(server.call, "POST", "/invocations", LONG)
        time.sleep(0.5)
        os.kill(server.worker_pid(), signal.SIGKILL)
        answer = doomed.result(10)
    assert (answer.status, answer.json()["code"]) == (500, "generation_failed")
    assert server.call("GET", "/ping").status == 503
    assert server.draw(prompt="a dog").status == 200  # waits for the new worker
    assert server.call("GET", "/ping").status == 200


@linux_only
def test_a_request_after_the_workers_unnoticed_death_is_served_by_the_next_one(server: RunningServer) -> None:
    os.kill(server.worker_pid(), signal.SIGKILL)
    assert server.draw(prompt="a dog").status == 200


def test_a_picture_that_takes_too_long_is_given_up_and_the_worker_replaced(
    tiny_base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").symlink_to(tiny_base_model)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    worker = WorkerProcess(on_hopeless=lambda: None, timeout_seconds=1)
    worker.start()
    try:
        wait_until(lambda: worker.ready, 30)
        invocation = Invocation(payload=InferencePayload(**LONG), plain_text=False, form="png")
        with pytest.raises(GenerationFailed, match="took longer"):
            worker.ask([invocation])
        assert not worker.ready
        wait_until(lambda: worker.ready, 30)
    finally:
        worker.stop()


def test_a_request_that_is_cut_off_by_the_servers_end_may_be_sent_again(
    tiny_base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").symlink_to(tiny_base_model)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    worker = WorkerProcess(on_hopeless=lambda: None)
    worker.start()
    try:
        wait_until(lambda: worker.ready, 30)
        invocation = Invocation(payload=InferencePayload(**LONG), plain_text=False, form="png")
        with ThreadPoolExecutor(1) as pool:
            cut_off = pool.submit(worker.ask, [invocation])
            time.sleep(0.5)
            assert not cut_off.done()
            worker.stop()
            with pytest.raises(EndpointBusy, match="stopped"):
                cut_off.result(10)
    finally:
        worker.stop()


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@linux_only
def test_too_little_memory_is_reported_and_the_server_lives_on(server: RunningServer) -> None:
    assert server.draw(prompt="a dog").status == 200  # whatever is loaded lazily is loaded now
    worker = server.worker_pid()
    before = resource.prlimit(worker, resource.RLIMIT_AS)
    in_use = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (in_use + 24 * 2**20, before[1]))
    try:
        answer = server.draw(prompt="a dog", width=1024, height=1024, num_inference_steps=1)
    finally:
        with suppress(ProcessLookupError):  # it may have gone: some failures outlast their cause
            resource.prlimit(worker, resource.RLIMIT_AS, before)
    assert (answer.status, answer.json()["code"]) == (500, "out_of_memory"), server.log.read_text()[-3000:]
    assert server.draw(prompt="a dog").status == 200
    assert server.draw(**LONG | {"num_inference_steps": 1}).status == 200


def call_in_vain(server: RunningServer) -> None:
    with pytest.raises(OSError):
        server.call("POST", "/invocations", LONG)


@linux_only
def test_the_worker_ends_with_a_server_that_was_killed(tiny_base_model: Path, tmp_path: Path) -> None:
    with running_server(tmp_path, tiny_base_model, free_port()) as doomed:
        doomed.wait_for_ping(200)
        worker = doomed.worker_pid()
        threading.Thread(target=call_in_vain, args=(doomed,)).start()
        time.sleep(0.5)
        doomed.process.kill()
        wait_until(lambda: not is_alive(worker), 5)


def test_sigterm_finishes_the_running_request_and_accepts_no_more(server: RunningServer) -> None:
    """The last test of the file: it ends the shared server."""
    worker = server.worker_pid() if Path("/proc/self/task").exists() else None
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.call, "POST", "/invocations", LONG | {"num_inference_steps": 15})
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert _is_refused_within(server, 5.0)
        assert not running.done()
        assert running.result(25).status == 200
    assert server.process.wait(5) == 0
    assert worker is None or not is_alive(worker)


def _is_refused_within(server: RunningServer, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            server.call("GET", "/ping")
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_base_model_that_cannot_be_loaded_ends_the_program_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with running_server(tmp_path, tmp_path, free_port()) as hopeless:
        assert hopeless.process.wait(30) == 1
        assert "invalid_base_model" in hopeless.log.read_text()


def run_program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference_container", *arguments],
        cwd=REPOSITORY,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_a_wrong_command_line_or_port_ends_with_a_sentence(tmp_path: Path) -> None:
    wrong = run_program("train")
    assert (wrong.returncode, "usage" in wrong.stderr) == (64, True)
    bad_port = run_program("serve", SAGEMAKER_BIND_TO_PORT="http")
    assert (bad_port.returncode, "SAGEMAKER_BIND_TO_PORT" in bad_port.stderr) == (1, True)


def test_the_server_process_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "PIL", "boto3", "diffusers"}
    code = f"import sys, inference_container.server; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
