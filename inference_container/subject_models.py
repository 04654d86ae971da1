"""Subjects in memory: LoRA subjects as named adapters of the shared base pipeline, full subjects as pipelines."""

from __future__ import annotations

import gc
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from contracts.artifact import LORA_WEIGHTS, VersionManifest
from contracts.errors import HostingFailed
from contracts.generation import GenerationDefaults
from inference_container.pipelines import (
    LOADING_ERRORS,
    BaseModel,
    Pipeline,
    is_out_of_memory,
    load_pipeline,
    weight_bytes,
)
from inference_container.subjects import SubjectStore, needed_files
from inference_container.words import Vocabulary, Words

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryLimits:
    """How much may stay in memory besides the base model. A subject that is larger is served alone."""

    subjects: int
    bytes: int


@dataclass(frozen=True)
class SelectedModel:
    pipeline: Pipeline
    resolution: int  # side in pixels that it was trained for
    load_ms: int  # 0 when it was in memory


@dataclass(frozen=True)
class _Resident:
    pipeline: Pipeline | None  # None: an adapter of the base pipeline
    resolution: int
    bytes: int
    words: Words | None = None


class SubjectModels:
    """Keeps the least recently drawn out. Not for several threads: adapters are switched on the shared pipeline."""

    def __init__(self, base: BaseModel, store: SubjectStore | None, limits: MemoryLimits) -> None:
        self._base = base
        self._store = store
        self._limits = limits
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self._vocabulary = Vocabulary(base.pipeline.text_encoder)

    @property
    def generation_defaults(self) -> GenerationDefaults:
        return self._base.manifest.generation_defaults

    def select(self, subject: str | None, version: str | None) -> SelectedModel:
        """The model of that version, loaded if need be; the base model without a subject.

        Raises UnknownSubject, or HostingFailed when its files are damaged or do not fit this base model.
        """
        if subject is None or version is None:
            self._switch_adapters_off()
            self._vocabulary.speak(None)
            return SelectedModel(self._base.pipeline, self._base.manifest.resolution, load_ms=0)
        key = f"{subject}_{version}"
        load_ms = 0
        if key not in self._residents:
            started = time.monotonic()
            self._load(key, subject, version)
            load_ms = max(1, round((time.monotonic() - started) * 1000))
            _log.info("loaded %s in %d ms, %d in memory", key, load_ms, len(self._residents))
        self._residents.move_to_end(key)
        resident = self._residents[key]
        self._vocabulary.speak(resident.words)
        if resident.pipeline is not None:
            return SelectedModel(resident.pipeline, resident.resolution, load_ms)
        self._base.pipeline.enable_lora()
        self._base.pipeline.set_adapters(key)
        return SelectedModel(self._base.pipeline, resident.resolution, load_ms)

    def release(self) -> None:
        """Frees everything but the base model."""
        while self._residents:
            self._evict_oldest()

    def _load(self, key: str, subject: str, version: str) -> None:
        if self._store is None:
            raise HostingFailed("This endpoint was started without DATA_BUCKET and knows no subjects.")
        manifest = self._store.manifest(subject, version)
        self._check_lineage(manifest)
        directory = self._store.fetch(manifest)
        self._make_room(sum(entry.size for entry in needed_files(manifest)))
        try:
            if manifest.artifact.method == "lora":
                self._residents[key] = self._load_adapter(key, directory, manifest)
            else:
                self._residents[key] = self._load_full(directory, manifest)
        except LOADING_ERRORS as error:
            if is_out_of_memory(error):
                raise
            raise HostingFailed(f"The model {subject} {version} cannot be loaded: {error}.") from error

    def _check_lineage(self, manifest: VersionManifest) -> None:
        """A subject trained on other weights would draw nonsense, in silence."""
        trained_on, served = manifest.artifact, self._base.manifest
        if trained_on.base_model_checksum != served.checksum:
            raise HostingFailed(
                f"{manifest.subject} {manifest.version} was trained on another base model "
                f"({trained_on.base_model}) than this endpoint serves ({served.id})."
            )

    def _load_adapter(self, key: str, directory: Path, manifest: VersionManifest) -> _Resident:
        pipeline = self._base.pipeline
        try:
            pipeline.load_lora_weights(
                directory, weight_name=LORA_WEIGHTS, adapter_name=key, use_safetensors=True, local_files_only=True
            )
            if key not in _adapters(pipeline):
                raise ValueError("no weight in it belongs to a layer of the base model")
            words = self._vocabulary.read(directory)
        except BaseException:
            if key in _adapters(pipeline):
                pipeline.delete_adapters(key)
            raise
        size = (directory / LORA_WEIGHTS).stat().st_size
        return _Resident(None, manifest.artifact.resolution, size, words)

    def _load_full(self, directory: Path, manifest: VersionManifest) -> _Resident:
        pipeline = load_pipeline(self._base.directory, self._base.pipeline.device, trained=directory)
        return _Resident(pipeline, manifest.artifact.resolution, weight_bytes(pipeline))

    def _switch_adapters_off(self) -> None:
        if _adapters(self._base.pipeline):
            self._base.pipeline.disable_lora()

    def _make_room(self, wanted_bytes: int) -> None:
        while self._residents and (
            len(self._residents) >= self._limits.subjects
            or sum(resident.bytes for resident in self._residents.values()) + wanted_bytes > self._limits.bytes
        ):
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        key, resident = self._residents.popitem(last=False)
        if resident.pipeline is None:
            self._base.pipeline.delete_adapters(key)
        del resident
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _adapters(pipeline: Pipeline) -> set[str]:
    return {name for names in pipeline.get_list_adapters().values() for name in names}
