"""Takes the place of inference_container/__main__.py: answers every request with a grey picture, after a while.

It does not start when its base model has a file named `refuses`. Only the standard library.
"""

import base64
import http.server
import json
import os
import pathlib
import struct
import sys
import time
import zlib

BASE = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
SECONDS_A_STEP = 0.02

assert sys.argv[1:] == ["serve"]
if (BASE / "model/refuses").exists():
    sys.exit("The base model does not load.")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


PICTURE = base64.b64encode(
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0\x80"))
    + chunk(b"IEND", b"")
).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(f"draws {self.headers['X-Amzn-SageMaker-Inference-Id']}", flush=True)
        time.sleep(SECONDS_A_STEP * (request.get("num_inference_steps") or 1))
        timings = {"load_ms": 0, "compute_ms": 1}
        self.answer(
            {"generated_images": [PICTURE], "prompt": request["prompt"], "seeds": [request["seed"]], "timings": timings}
        )

    def answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


address = ("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
