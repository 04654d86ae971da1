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
from inference_container.pictures import Pixels, to_file

_ENCODERS = ThreadPoolExecutor(4)  # encoding takes tens of milliseconds a picture, while a GPU waits


def render(invocation: Invocation, drawing: Drawing) -> bytes:
    """A JSON document for one invocation and what was drawn for it."""
    prompt = invocation.payload.prompt
    if invocation.form == "rgb":
        arrays = [picture.tolist() for picture in drawing.pictures]
        return _compact(_under_key(invocation, arrays) | {"prompt": prompt})
    encode = partial(_encoded, form=invocation.form)
    encoded = list(_ENCODERS.map(encode, drawing.pictures, drawing.origins))
    if invocation.plain_text:
        return _compact(_under_key(invocation, encoded) | {"prompt": prompt})
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


def _under_key(invocation: Invocation, pictures: list[object] | list[str]) -> dict[str, object]:
    return {"generated_image": pictures[0]} if invocation.plain_text else {"generated_images": pictures}


def _compact(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
