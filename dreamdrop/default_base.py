"""The local default base model: a finished directory that names and describes itself, imported once.

Its id belongs to its files for ever. Other weights take another id, so that subjects trained on the former ones go on
being drawn: the two have an endpoint each.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from contracts.artifact import BaseModelManifest
from contracts.errors import InvalidBaseModel, InvalidRequest
from contracts.storage import MANIFEST
from contracts.training import describe
from dreamdrop.base_models import describe_directory, import_directory, imported_manifest
from dreamdrop.deployment import Deployment


def read_finished(directory: Path) -> BaseModelManifest:
    """The directory's manifest, after its files were compared with its own manifest.json. Raises InvalidBaseModel."""
    cure = f"Fetch it again (git checkout {directory}), or make it anew, which takes hours: make toyworld"
    try:
        own = BaseModelManifest.model_validate_json((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise InvalidBaseModel(f"There is no finished base model in {directory} ({error}).", cure) from error
    except ValidationError as error:
        raise InvalidBaseModel(f"{directory / MANIFEST}: {describe(error)}.", cure) from error
    found = describe_directory(directory, own.id, own.source, own.licence)
    differing = sorted({file.path for file in {*own.files} ^ {*found.files}})
    if differing:
        raise InvalidBaseModel(f"{directory}: not as {MANIFEST} says: {', '.join(differing)}.", cure)
    return found


def ensure_imported(deployment: Deployment, directory: Path, manifest: BaseModelManifest) -> None:
    """Imports it unless it is there. Raises InvalidRequest when its id has other files already."""
    present = imported_manifest(deployment, manifest.id)
    if present == manifest:
        return
    if present is not None and present.checksum != manifest.checksum:
        raise InvalidRequest(
            f"The base model {manifest.id} is imported already, with other files than those in {directory}.",
            "Forget what the local cloud has stored, its subjects included (make clean), or give the new weights an "
            f"id of their own, in {directory / MANIFEST} and in infra/settings.py.",
        )
    import_directory(deployment, directory, manifest, lambda _file, _done, _total: None)
