"""Asks for one picture, waits for it and saves it, with nothing but botocore (a part of boto3).

    python examples/generate.py API_URL SUBJECT PROMPT [FILE]

The local cloud: API_URL is what `dreamdrop status` says; AWS_ACCESS_KEY_ID is 000000000000, the secret local.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
from botocore.session import Session

session = Session()
credentials = session.get_credentials() or sys.exit("No AWS credentials were found.")
http = URLLib3Session()


def call(method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    content = json.dumps(body) if body else ""
    request = AWSRequest(method, url, headers={"content-type": "application/json"}, data=content)
    region = session.get_config_variable("region") or "us-east-1"
    SigV4Auth(credentials, "execute-api", region).add_auth(request)
    response = http.send(request.prepare())
    answer: dict[str, Any] = json.loads(response.content)
    if response.status_code >= 300:
        sys.exit(json.dumps(answer.get("error", answer)))
    return answer


def main(api: str, subject: str, prompt: str, file: str = "picture.png") -> None:
    generations = f"{api.rstrip('/')}/v1/generations"
    generation = call("POST", generations, {"subject": subject, "prompt": prompt})
    while generation["status"] == "queued":
        time.sleep(1)
        generation = call("GET", f"{generations}/{generation['id']}")
    if generation["status"] != "succeeded":
        sys.exit(json.dumps(generation["error"]))
    picture = http.send(AWSRequest("GET", generation["images"][0]["url"]).prepare())
    Path(file).write_bytes(picture.content)
    sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
