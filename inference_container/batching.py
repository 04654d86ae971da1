"""Which of the requests that wait are drawn together, in one denoising loop. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from contracts.generation import InferencePayload

# A batch has one model, one shape and one course of steps; what else a request asks for is its pictures' own.
_SHARED = (
    "subject",
    "version",
    "lora_scale",
    "width",
    "height",
    "num_inference_steps",
    "scheduler",
    "strength",
    "upscale",
)


def kind_of(payload: InferencePayload) -> Hashable:
    """Requests of one kind can be drawn together."""
    guided = payload.guidance_scale is None or payload.guidance_scale > 1
    shape_of_source = payload.source_image if payload.width is None or payload.height is None else None
    return (
        *(getattr(payload, name) for name in _SHARED),
        tuple(payload.mix),
        guided,
        payload.guidance_scale is None,
        payload.source_image is None,
        shape_of_source,
    )


def next_batch(waiting: Sequence[InferencePayload], most_pictures: int) -> list[int]:
    """Which of them: the one that waits longest, and of its kind the next ones that fit. At least one."""
    kind = kind_of(waiting[0])
    chosen: list[int] = []
    pictures = 0
    for index, payload in enumerate(waiting):
        if kind_of(payload) == kind and (not chosen or pictures + payload.images <= most_pictures):
            chosen.append(index)
            pictures += payload.images
    return chosen
