"""The local cloud: MiniStack with our plug-ins, a SageMaker and Lambda environments of our own, in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from dreamdrop.deployment import Deployment, NoDeployment
from dreamdrop.local import record
from dreamdrop.local.assembly import Assembly
from dreamdrop.local.deploy import Deployer
from dreamdrop.local.errors import LocalCloudError
from dreamdrop.local.files import write_atomically
from dreamdrop.local.record import CloudRecord
from dreamdrop.local.settings import HOST, CloudSettings, apply_to_process, check_ministack_version

log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0  # for requests in flight when the cloud stops
PARENT_POLL_SECONDS = 0.5


def run(settings: CloudSettings) -> None:
    """Runs until SIGTERM, SIGINT or the parent's death. Raises LocalCloudError. Its processes end with it."""
    check_ministack_version()
    other = CloudRecord.read(settings.state)
    if other and other.pid != os.getpid() and other.alive and other.phase == "ready":
        raise LocalCloudError(f"A local cloud of {settings.state} is up already.", "Stop it first: make down")
    _check_port_is_free(settings.port)
    assembly = Assembly(settings.cdk_out, settings.account, settings.region) if settings.deploy else None
    settings.outputs_file.unlink(missing_ok=True)
    apply_to_process(settings)
    stop = _Stop()
    stop.on_signals()
    if settings.parent_pid:
        stop.when_parent_dies(settings.parent_pid)
    CloudRecord(os.getpid(), settings.port, "starting").write(settings.state)
    try:
        _serve(settings, assembly, stop)
    finally:
        settings.outputs_file.unlink(missing_ok=True)
        record.remove(settings.state)
    if stop.error:
        raise stop.error


def _check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise LocalCloudError(
                f"Port {port} is in use or not allowed ({error.strerror}).",
                "Stop what listens there (make down, if it is a local cloud), or take another: --port N",
            ) from error


class _Stop:
    """Whether to stop, and why. A signal only raises the flag, so a second one cannot cut the stopping short."""

    def __init__(self) -> None:
        self.flag = threading.Event()
        self.error: LocalCloudError | None = None

    def on_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.flag.set())

    def when_parent_dies(self, parent: int) -> None:
        def watch() -> None:
            started_by_it = os.getppid() == parent
            while not self.flag.wait(PARENT_POLL_SECONDS):
                if (started_by_it and os.getppid() != parent) or not CloudRecord(parent, 0, "ready").alive:
                    self.flag.set()

        threading.Thread(target=watch, daemon=True, name="parent-watch").start()

    async def wait(self) -> None:
        while not self.flag.is_set():  # polled: a signal handler cannot wake another thread's event loop
            await asyncio.sleep(0.05)


def _serve(settings: CloudSettings, assembly: Assembly | None, stop: _Stop) -> None:
    from dreamdrop.local.plugins.install import install

    sys.argv = sys.argv[:1]  # MiniStack's modules look at it
    plugins = install(settings)

    def bring_up() -> None:
        """In its own thread: the stacks are deployed over HTTP, so the server must be answering meanwhile."""
        try:
            _wait_until_answering(settings.port, stop)
            _bring_up(settings, assembly, plugins.restore)
        except LocalCloudError as error:
            stop.error = error
            stop.flag.set()
        except Exception as error:
            log.exception("The local cloud does not come up")
            stop.error = LocalCloudError(f"{type(error).__name__}: {error}", "Read the log of the local cloud.")
            stop.flag.set()

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"{HOST}:{settings.port}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = GRACE_SECONDS
    config.loglevel = "WARNING"
    threading.Thread(target=bring_up, daemon=True, name="bring-up").start()
    loop = asyncio.new_event_loop()
    try:
        # Its shutdown writes the state; executions in flight are written as running, and reported at the next start.
        loop.run_until_complete(serve(plugins.application, config, shutdown_trigger=stop.wait))
    finally:
        plugins.shutdown()


def _wait_until_answering(port: int, stop: _Stop) -> None:
    while not stop.flag.is_set():
        try:
            socket.create_connection((HOST, port), 0.5).close()
            return
        except OSError:
            time.sleep(0.02)


def _bring_up(settings: CloudSettings, assembly: Assembly | None, restore: Callable[[], None]) -> None:
    deployer = Deployer(settings)
    outputs = deployer.deploy(assembly) if assembly else deployer.outputs()
    restore()
    try:
        deployment = Deployment.from_outputs(
            outputs, region=settings.region, endpoint_url=settings.endpoint_url, account=settings.account
        )
    except NoDeployment as missing:
        if settings.deploy:
            raise LocalCloudError(missing.cause, "Add them to the stacks.") from missing
    else:
        write_atomically(settings.outputs_file, deployment.model_dump_json(indent=1))
    CloudRecord(os.getpid(), settings.port, "ready").write(settings.state)
