"""From drawn pictures to the body of the answer: JumpStart's RGB arrays, or base64 files, seeds and timings."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from contracts.generation import InferenceAnswer, InferenceTimings, PictureFormat
from inference_container.generator import Drawing
from inference_container.payload import Invocation
from inference_container.pictures import Pixels, to_file, to_json

_ENCODERS = ThreadPoolExecutor(4)  # encoding takes tens of milliseconds a picture, while a GPU waits


def render(invocation: Invocation, drawing: Drawing) -> bytes:
    """A JSON document for one invocation and what was drawn for it."""
    prompt = invocation.payload.prompt
    if invocation.form == "rgb":
        arrays = [to_json(picture) for picture in drawing.pictures]
        named = b'"generated_image":' + arrays[0]
        if not invocation.plain_text:
            named = b'"generated_images":[' + b",".join(arrays) + b"]"
        return b"{" + named + b',"prompt":' + json.dumps(prompt).encode() + b"}"
    encode = partial(_encoded, form=invocation.form)
    encoded = list(_ENCODERS.map(encode, drawing.pictures, drawing.origins))
    if invocation.plain_text:
        return json.dumps({"generated_image": encoded[0], "prompt": prompt}, separators=(",", ":")).encode()
    answer = InferenceAnswer(
        generated_images=encoded,
        prompt=prompt,
        seeds=drawing.seeds,
        timings=InferenceTimings(load_ms=drawing.load_ms, compute_ms=drawing.compute_ms),
        subjects=list(drawing.subjects),
    )
    return answer.model_dump_json().encode()


def _encoded(picture: Pixels, origin: Mapping[str, object], form: PictureFormat) -> str:
    return base64.b64encode(to_file(picture, form, origin)).decode()
