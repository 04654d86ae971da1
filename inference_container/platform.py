"""What SageMaker's hosting gives a container: a directory, a port and the environment. Nothing else here knows them.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. On a laptop the base
directory, the port and the address are set, so that several containers can run side by side as processes, and nobody
outside reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.storage import OWN_SUBJECT

DRAIN_SECONDS = 25.0  # SIGKILL follows SIGTERM after 30 s


@dataclass(frozen=True, kw_only=True)
class Platform:
    base_directory: Path
    host: str
    port: int
    data_bucket: str | None
    blocked_words: tuple[str, ...] = ()
    watermark: str = ""
    own_subject_name: str = ""  # subject@version of a dedicated endpoint

    @property
    def model_directory(self) -> Path:
        """The imported base model; complete before the container starts."""
        return self.base_directory / "model"

    @property
    def own_subject(self) -> Path | None:
        """The only subject of a dedicated endpoint: an additional model data source of that name. None: there is none.

        https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_AdditionalModelDataSource.html
        """
        directory = self.base_directory / "additional-model-data-sources" / OWN_SUBJECT
        return directory if directory.is_dir() else None

    @property
    def subject_directory(self) -> Path:
        """Fetched subjects; made by this container."""
        return self.base_directory / "cache" / "subjects"

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Platform:
        """Raises ValueError for a port that is none."""
        port = variables.get("SAGEMAKER_BIND_TO_PORT", "8080")
        if not (port.isdecimal() and 0 <= int(port) < 2**16):
            raise ValueError(f"SAGEMAKER_BIND_TO_PORT: {port!r} is not a port number")
        return cls(
            base_directory=Path(variables.get("SAGEMAKER_BASE_DIR", "/opt/ml")),
            host=variables.get("BIND_TO_ADDRESS", "0.0.0.0"),  # noqa: S104  the platform calls from outside
            port=int(port),
            data_bucket=variables.get("DATA_BUCKET") or None,
            blocked_words=tuple(word for word in variables.get("BLOCKED_WORDS", "").split(",") if word.strip()),
            watermark=variables.get("WATERMARK", ""),
            own_subject_name=variables.get("SUBJECT", ""),
        )
