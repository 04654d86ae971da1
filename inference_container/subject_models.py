"""Subjects in memory. Three levels: the disk (subjects.py), the machine's memory, and the GPU's.

LoRA subjects are worn by the base model's networks; full subjects are networks of their own.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from contracts.artifact import ARTIFACT, Artifact
from contracts.errors import HostingFailed, InvalidRequest, UnknownSubject
from contracts.generation import GenerationDefaults
from diffusion.verification import DamagedFile, unlisted, verify
from inference_container.adapters import Adapter, Wardrobe, Worn
from inference_container.networks import LOADING_ERRORS, BaseModel, Networks, is_out_of_memory, read_trained
from inference_container.shelf import Shelf
from inference_container.subjects import READ_OF_SUBJECTS, SubjectStore, needed_files
from inference_container.words import Vocabulary

OWN = "own"  # the only subject of a dedicated container
SECONDS_BETWEEN_CHECKS = 30.0  # that a subject has not been deleted
MOST_CHECKED_AT_ONCE = 32  # nothing is drawn meanwhile
SECONDS_PROMOTED = 2.0  # that a promoted version is taken for the latest

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryLimits:
    """How much may stay besides the base model. A subject that is larger is served alone."""

    subjects: int
    device_bytes: int
    memory_bytes: int  # of the machine, where the device has memory of its own


class Share(NamedTuple):
    """Who is to be drawn, and how strongly."""

    subject: str
    version: str | None  # None: the promoted one
    scale: float


@dataclass(frozen=True)
class SelectedModel:
    networks: Networks
    key: str  # the same key, the same weights
    resolution: int  # side in pixels that it was trained for
    load_ms: int  # 0 when it was in memory
    drawn: tuple[str, ...]  # subject@version of each


@dataclass(frozen=True)
class _Full:
    networks: Networks
    base: Networks

    @property
    def _own(self) -> list[torch.nn.Module]:
        pairs = ((self.networks.unet, self.base.unet), (self.networks.text_encoder, self.base.text_encoder))
        return [module for module, of_base in pairs if module is not of_base]

    @property
    def bytes(self) -> int:
        return sum(weight.nbytes for module in self._own for weight in module.parameters())

    def to(self, device: torch.device) -> _Full:
        for module in self._own:
            module.to(device)
        return self


@dataclass(frozen=True)
class _Resident:
    model: Adapter | _Full
    resolution: int

    def to(self, device: torch.device) -> _Resident:
        return _Resident(self.model.to(device), self.resolution)


class SubjectModels:
    """Not for several threads: adapters are put on the shared networks."""

    def __init__(
        self,
        base: BaseModel,
        store: SubjectStore | None,
        limits: MemoryLimits,
        own: Path | None = None,
        own_name: str = "",
    ) -> None:
        """`own` holds the artifact of a dedicated container's only subject, subject@version its name.

        Raises HostingFailed if it is unusable.
        """
        self._base = base
        self._store = store
        networks = base.networks
        self._device = networks.device
        self._wardrobe = Wardrobe(networks.unet, networks.text_encoder)
        self._vocabulary = Vocabulary(networks.text_encoder)
        self._in_memory: Shelf[_Resident] = Shelf(limits.memory_bytes)
        self._on_device: Shelf[_Resident] = Shelf(limits.device_bytes, limits.subjects, self._off_the_device)
        self._seen: dict[str, float] = {}  # when it was last known not to be deleted
        self._unchecked: list[str] = []  # of this round of drop_deleted
        self._latest: dict[str, tuple[str, float]] = {}  # the promoted version, and when it was read
        self._own = self._load_own(own) if own is not None else None
        self._own_name = own_name
        self.on_forgotten: Callable[[], None] = lambda: None  # for who keeps what subjects have made

    @property
    def base_model(self) -> str:
        return self._base.manifest.id

    @property
    def generation_defaults(self) -> GenerationDefaults:
        return self._base.manifest.generation_defaults

    def select(self, shares: Sequence[Share] = (), scale: float = 1.0) -> SelectedModel:
        """The model that draws them, loaded if need be. Without any: the base model, or the only subject at that scale.

        Raises UnknownSubject; InvalidRequest for a mixture that cannot be; HostingFailed when files are damaged or do
        not fit this base model.
        """
        if self._own is not None:
            return self._select_own(self._own, shares, scale)
        if not shares:
            return self._selected([], 0, ())
        started = time.monotonic()
        versions = [(share.subject, share.version or self._promoted(share.subject)) for share in shares]
        cold = [named for named in versions if not self._is_loaded(_key(*named))]
        residents = [self._resident(*named) for named in versions]
        load_ms = max(1, round((time.monotonic() - started) * 1000)) if cold else 0
        for subject, version in cold:
            _log.info("loaded %s %s in %d ms", subject, version, load_ms)
        keys = [_key(*named) for named in versions]
        chosen = [(key, resident, share.scale) for key, resident, share in zip(keys, residents, shares, strict=True)]
        return self._selected(chosen, load_ms, tuple(f"{subject}@{version}" for subject, version in versions))

    def _select_own(self, own: _Resident, shares: Sequence[Share], scale: float) -> SelectedModel:
        """Whichever version is asked for: who asked for another one did so before this container took over."""
        name = self._own_name.partition("@")[0]
        if others := [share.subject for share in shares if share.subject != name]:
            raise UnknownSubject(f"This endpoint draws {name or 'one subject'} only, not {others[0]}.")
        drawn = (self._own_name,) if self._own_name else ()
        return self._selected([(OWN, own, shares[0].scale if shares else scale)], 0, drawn)

    def release(self) -> None:
        """Frees everything but the base model."""
        self._undress()
        self._wardrobe.put_away()
        self._on_device.reserve(0)
        self._on_device.clear()
        self._in_memory.clear()
        _collect()

    def drop_deleted(self) -> None:
        """Subjects that are no longer in the bucket leave memory and disk; each call looks for the next few.

        Raises HostingFailed if the bucket is silent.
        """
        if self._store is None:
            return
        kept = {*self._on_device, *self._in_memory, *self._store.kept()}
        self._unchecked = self._unchecked or sorted(kept)
        due, self._unchecked = self._unchecked[:MOST_CHECKED_AT_ONCE], self._unchecked[MOST_CHECKED_AT_ONCE:]
        for key in kept.intersection(due):
            subject, _, version = key.rpartition("_")
            if not self._store.exists(subject, version):
                self._forget(key)

    def _selected(
        self, chosen: Sequence[tuple[str, _Resident, float]], load_ms: int, drawn: tuple[str, ...]
    ) -> SelectedModel:
        full = [resident for _, resident, _ in chosen if isinstance(resident.model, _Full)]
        if full and len(chosen) > 1:
            raise InvalidRequest(
                "mix: only subjects of method lora can share a picture.", "Train them with method lora, or draw one."
            )
        if full and chosen[0][2] != 1:
            raise InvalidRequest("lora_scale: this subject is of method full, which has none.", "Leave lora_scale out.")
        resolution = max([resident.resolution for _, resident, _ in chosen], default=self._base.manifest.resolution)
        key = repr([(name, scale) for name, _, scale in chosen])
        if full and isinstance(full[0].model, _Full):
            self._undress()  # it may draw with the base model's text encoder
            return SelectedModel(full[0].model.networks, key, resolution, load_ms, drawn)
        worn = [
            Worn(name, resident.model, scale) for name, resident, scale in chosen if isinstance(resident.model, Adapter)
        ]
        try:
            spoken = [one.adapter.words for one in worn if one.scale != 0 and one.adapter.words is not None]
            self._vocabulary.speak(spoken)
        except ValueError as error:
            raise InvalidRequest(f"mix: {error}.", "Draw them one at a time.") from error
        self._wardrobe.wear(worn)
        self._on_device.reserve(self._wardrobe.bytes)
        return SelectedModel(self._base.networks, key, resolution, load_ms, drawn)

    def _undress(self) -> None:
        self._vocabulary.speak([])
        self._wardrobe.wear([])

    # ---- the levels

    def _is_loaded(self, key: str) -> bool:
        return key in self._on_device or key in self._in_memory

    def _resident(self, subject: str, version: str) -> _Resident:
        key = _key(subject, version)
        if self._is_loaded(key):
            self._check_that_it_exists(key, subject, version)
        if (resident := self._on_device.get(key)) is not None:
            return resident
        if (waiting := self._in_memory.take(key)) is not None:
            self._on_device.make_room(waiting.model.bytes)
            resident = waiting.to(self._device)
        else:
            resident = self._load(subject, version)
        self._on_device.put(key, resident, resident.model.bytes)
        return resident

    def _off_the_device(self, key: str, resident: _Resident) -> None:
        if self._device.type != "cpu":
            self._in_memory.put(key, resident.to(torch.device("cpu")), resident.model.bytes)
        _collect()

    def _forget(self, key: str) -> None:
        self._on_device.take(key)
        self._in_memory.take(key)
        self._seen.pop(key, None)
        self._undress()
        self.on_forgotten()
        if self._store is not None:
            self._store.forget(key)
        _collect()
        _log.info("%s is gone from the bucket, and from here", key)

    def _check_that_it_exists(self, key: str, subject: str, version: str) -> None:
        """Now and then. Raises UnknownSubject."""
        now = time.monotonic()
        if self._store is None or now - self._seen.get(key, -SECONDS_BETWEEN_CHECKS) < SECONDS_BETWEEN_CHECKS:
            return
        try:
            exists = self._store.exists(subject, version)
        except HostingFailed as error:  # a silent bucket is no reason not to draw what is here
            _log.warning("%s", error)
            exists = True
        if not exists:
            self._forget(key)
            raise UnknownSubject(f"The version {version} of subject {subject} has been deleted.")
        self._seen[key] = now

    # ---- loading

    def _promoted(self, subject: str) -> str:
        """As of a moment ago; while the bucket is silent, as of the last time that it told, if that model is here."""
        version, read = self._latest.pop(subject, ("", -SECONDS_PROMOTED))
        now = time.monotonic()
        if now - read >= SECONDS_PROMOTED:
            try:
                version, read = self._bucket().promoted(subject), now
            except HostingFailed as error:
                if not self._is_loaded(_key(subject, version)):
                    raise
                _log.warning("%s", error)
                read = time.monotonic()  # after the tries, which take a while: not every batch is to wait for them
        self._latest[subject] = (version, read)
        return version

    def _bucket(self) -> SubjectStore:
        if self._store is None:
            raise HostingFailed("This endpoint was started without DATA_BUCKET and knows no subjects.")
        return self._store

    def _load(self, subject: str, version: str) -> _Resident:
        store = self._bucket()
        key = _key(subject, version)
        try:
            manifest = store.manifest(subject, version)
        except UnknownSubject:
            store.forget(key)
            raise
        name = f"{subject} {version}"
        self._check_lineage(name, manifest.artifact)
        self._on_device.make_room(sum(entry.size for entry in needed_files(name, manifest.artifact)))
        directory = store.fetch(manifest)
        self._seen[key] = time.monotonic()
        return self._read(name, directory, manifest.artifact)

    def _load_own(self, directory: Path) -> _Resident:
        try:
            artifact = Artifact.model_validate_json((directory / ARTIFACT).read_bytes())
            verify(directory, needed_files("of this container", artifact))
        except (OSError, ValueError, DamagedFile) as error:
            raise HostingFailed(f"The model in {directory} is not usable: {error}.") from error
        if strays := unlisted(directory, artifact.files, READ_OF_SUBJECTS):
            raise HostingFailed(
                f"The model in {directory} has a file that was not published with it: {strays[0]}.",
                "Delete that file from the model's folder in the data bucket.",
            )
        self._check_lineage("of this container", artifact)
        return self._read("of this container", directory, artifact)

    def _check_lineage(self, name: str, artifact: Artifact) -> None:
        """A subject trained on other weights would draw nonsense, in silence."""
        served = self._base.manifest
        if artifact.base_model_checksum != served.checksum:
            raise HostingFailed(
                f"The model {name} was trained on another base model ({artifact.base_model}) "
                f"than this endpoint serves ({served.id})."
            )

    def _read(self, name: str, directory: Path, artifact: Artifact) -> _Resident:
        try:
            model: Adapter | _Full
            if artifact.method == "lora":
                model = self._wardrobe.read(directory, self._vocabulary.read(directory)).to(self._device)
            else:
                model = _Full(read_trained(directory, self._base.networks), self._base.networks)
        except LOADING_ERRORS as error:
            if is_out_of_memory(error):
                raise
            raise HostingFailed(f"The model {name} cannot be loaded: {error}.") from error
        return _Resident(model, artifact.resolution)


def _key(subject: str, version: str) -> str:
    return f"{subject}_{version}"


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
