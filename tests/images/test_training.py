"""The training image, run as SageMaker runs a training job: `train`, /opt/ml, no network, signals, exit codes."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contracts.artifact import ARTIFACT, Artifact
from contracts.errors import parse_error
from tests.images.launcher import Container, running
from tests.images.store import Store

pytestmark = pytest.mark.oci

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
    print("connected")
except OSError as error:
    print(type(error).__name__, error)
"""


def prepare(folder: Path, **hyperparameters: str) -> Path:
    """/opt/ml as SageMaker fills it."""
    shutil.copytree(ROOT / "examples/datasets/robot", folder / "input/data/training")
    shutil.copytree(ROOT / "toyworld/base_model", folder / "input/data/model")
    (folder / "input/config").mkdir()
    (folder / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))
    return folder


@contextmanager
def training(store: Store, image: str, ml: Path) -> Iterator[Container]:
    log = ml.parent / "training.log"
    with running(store, image, "train", volumes={ml: "/opt/ml"}, log=log, environment=ONE_THREAD) as container:
        yield container


def test_it_trains_and_exits_with_zero(store: Store, images: dict[str, str], tmp_path: Path) -> None:
    ml = prepare(tmp_path / "ml", max_steps="12", save_steps="6")
    with training(store, images["training_container"], ml) as container:
        assert container.wait(120) == 0, container.output()
    artifact = Artifact.model_validate_json((ml / "model" / ARTIFACT).read_bytes())
    assert artifact.training.steps == 12
    assert artifact.versions["torch"] == "2.13.0+cpu"
    assert all((ml / "model" / file.path).stat().st_size == file.size for file in artifact.files)
    assert not (ml / "output/failure").exists()


def test_a_photo_that_is_none_ends_in_exit_code_one_and_the_cause(
    store: Store, images: dict[str, str], tmp_path: Path
) -> None:
    ml = prepare(tmp_path / "ml", max_steps="12")
    (ml / "input/data/training/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with training(store, images["training_container"], ml) as container:
        assert container.wait(60) == 1, container.output()
    failure = parse_error((ml / "output/failure").read_text())
    assert failure is not None and failure.code == "unreadable_image"
    assert "broken.png" in failure.cause
    assert not (ml / "model" / ARTIFACT).exists()


def test_sigterm_leaves_a_checkpoint_from_which_a_new_container_goes_on(
    store: Store, images: dict[str, str], tmp_path: Path
) -> None:
    ml = prepare(tmp_path / "ml", max_steps="400")
    with training(store, images["training_container"], ml) as container:
        container.wait_for_output("train_avg_loss", 90)
        container.stop()
        stopped = time.monotonic()
        assert container.wait(120) == 1, container.output()
        assert time.monotonic() - stopped < 120
    failure = parse_error((ml / "output/failure").read_text())
    assert failure is not None and failure.code == "training_stopped"
    (checkpoint,) = (ml / "checkpoints").glob("checkpoint-*")
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert 0 < step < 400
    with training(store, images["training_container"], ml) as container:
        container.wait_for_output(f"resuming at step {step}", 60)


def test_it_has_no_network(store: Store, images: dict[str, str], tmp_path: Path) -> None:
    """This machine is reached from this machine, and not from inside."""
    ml = prepare(tmp_path / "ml", max_steps="400")
    with socket.create_server(("", 0)) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which address of ours faces outwards
        address, port = probe.getsockname()[0], listener.getsockname()[1]
        socket.create_connection((address, port), 5).close()
        with training(store, images["training_container"], ml) as container:
            tried = container.execute("python", "-c", CONNECT, address, str(port))
            devices = container.execute("python", "-c", "import socket; print(socket.if_nameindex())")
    assert tried.stdout.startswith("OSError") and "unreachable" in tried.stdout, tried
    assert devices.stdout.strip() == "[(1, 'lo')]"


def test_a_wrong_command_ends_at_once(store: Store, images: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    volumes = {tmp_path / "ml": "/opt/ml"}
    with running(store, images["training_container"], "paint", volumes=volumes, log=tmp_path / "log") as container:
        assert container.wait(30) == 2
    assert "invalid choice: 'paint'" in container.output()
