"""dreamdrop/local/sagemaker/checkpoints.py: what is sent while the program goes on writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from dreamdrop.local.sagemaker.checkpoints import CheckpointSync
from dreamdrop.local.sagemaker.s3 import Location


class ReplacingStore:
    """Replaces the file by a shorter one while it is being sent, as the training program does with its progress."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: dict[str, bytes] = {}

    def upload_fileobj(self, file: BinaryIO, bucket: str, key: str) -> None:
        announced = len(self.path.read_bytes())
        shorter = self.path.with_name(".partial")
        shorter.write_bytes(b"{}")
        shorter.replace(self.path)
        self.received[key] = file.read()
        assert len(self.received[key]) == announced  # else the server waits for the rest for ever

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not what this store expects")


def test_a_file_that_is_replaced_while_it_is_sent_arrives_whole_and_is_sent_again(tmp_path: Path) -> None:
    progress = tmp_path / "progress.json"
    progress.write_bytes(b"x" * 1000)
    store = ReplacingStore(progress)
    sync = CheckpointSync(store, tmp_path, Location("bucket", "checkpoints"), interval_seconds=60)
    sync._push()
    assert store.received == {"checkpoints/progress.json": b"x" * 1000}
    sync._push()
    assert store.received == {"checkpoints/progress.json": b"{}"}
