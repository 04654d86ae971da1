"""Half precision that overflows, and what a failed batch leaves behind. CPU, networks of a few numbers."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from contracts.generation import InferencePayload
from inference_container import drawing
from inference_container.denoising import decode, encode_source
from inference_container.generator import Generator
from inference_container.networks import Networks
from inference_container.payload import Invocation


class OverflowingAutoencoder(nn.Module):
    """Twice its input, of 4 channels; in half precision it overflows, as those of some base models do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 2.0), requires_grad=False)
        self.decoder = SimpleNamespace(conv_in=self)
        self.config = SimpleNamespace(scaling_factor=0.5)
        self.fits = True

    def _run(self, given: Tensor) -> Tensor:
        assert given.dtype == self.weight.dtype
        if self.weight.dtype == torch.float16:
            return given * float("inf")
        if not self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return given * self.weight

    def decode(self, latents: Tensor) -> Tensor:
        return self._run(latents)[:, :3]

    def encode(self, picture: Tensor) -> Tensor:
        return self._run(torch.cat([picture, picture], 1))


def overflowing() -> tuple[Networks, OverflowingAutoencoder]:
    vae = OverflowingAutoencoder().half()
    return cast(Any, Networks)(None, None, None, vae, {}, torch.float16), vae


def encoded(networks: Networks) -> Tensor:
    picture = torch.full((1, 3, 8, 8), 0.25)
    return encode_source(networks, picture, torch.Generator().manual_seed(1))


def decoded(networks: Networks) -> Tensor:
    return decode(networks, torch.full((1, 4, 8, 8), 0.25, dtype=torch.float16))


@pytest.mark.parametrize("work", [encoded, decoded])
def test_an_autoencoder_that_overflows_in_half_precision_is_run_in_full(work: Callable[[Networks], Tensor]) -> None:
    networks, vae = overflowing()
    assert work(networks).isfinite().all()
    assert vae.weight.dtype == torch.float16


@pytest.mark.parametrize("work", [encoded, decoded])
def test_where_full_precision_does_not_fit_the_next_picture_is_drawn_as_ever(
    work: Callable[[Networks], Tensor],
) -> None:
    networks, vae = overflowing()
    vae.fits = False
    with pytest.raises(torch.OutOfMemoryError):
        work(networks)
    assert (networks.dtype, vae.weight.dtype) == (torch.float16, torch.float16)
    vae.fits = True
    assert work(networks).isfinite().all()


def test_a_failed_batch_is_gone_from_memory_when_its_requests_are_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing._log, "disabled", True)  # pytest keeps what is logged, traceback and all
    held: list[weakref.ref[Tensor]] = []

    class FailsTogether:
        def draw(self, batch: Sequence[InferencePayload]) -> Any:
            if len(batch) > 1:
                latents = torch.zeros(2)
                held.append(weakref.ref(latents))
                raise KeyError("a bug")
            raise KeyError("freed" if held[0]() is None else "held")

    one = Invocation(payload=InferencePayload(prompt="a dog"), plain_text=False, form="png")
    answers = drawing._answers([one, one], cast(Generator, FailsTogether()))
    assert ["freed" in json.loads(answer.body)["cause"] for answer in answers] == [True, True]
