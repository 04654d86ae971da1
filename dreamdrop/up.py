"""The local cloud that stays: `dreamdrop up` and `dreamdrop down`. Everything of it is kept in .local/."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from rich.console import Console

from dreamdrop.default_base import ensure_imported, read_finished
from dreamdrop.deployment import LOCAL_OUTPUTS, LOCAL_SECRET, Deployment
from dreamdrop.local import process, synth
from dreamdrop.local.process import LocalCloudProcess
from dreamdrop.local.settings import HOST
from dreamdrop.progress import timed

STATE = LOCAL_OUTPUTS.parent
LOG = STATE / "cloud.log"
CDK_OUT = STATE / "cdk.out"  # another than the CDK's command line writes, for whatever environment
PROJECT = Path(__file__).resolve().parents[1]
BASE_MODEL = PROJECT / "toyworld" / "base_model"
EXAMPLE = "examples/datasets/robot"


def start(port: int, console: Console, *, detached: bool) -> LocalCloudProcess | None:
    """None when it was up already. Raises InvalidBaseModel, LocalCloudError, subprocess.CalledProcessError."""
    running = process.status(STATE)
    if running is not None:
        if running.port != port:
            console.print(_already_elsewhere(running.port, port), markup=False, highlight=False, soft_wrap=True)
        return None
    base_model = read_finished(BASE_MODEL)  # refuse a damaged one before anything is started
    with timed(console, "Synthesizing the application"):
        synth.synthesize(PROJECT, CDK_OUT)
    with ExitStack() as stops:
        with timed(console, f"Starting the local cloud on port {port} and deploying into it"):
            cloud = stops.enter_context(process.start(CDK_OUT, STATE, port, auth=True, log=LOG, detached=detached))
        with timed(console, f"Importing the base model {base_model.id}"):
            ensure_imported(cloud.deployment(), BASE_MODEL, base_model)
        stops.pop_all()  # it is up, and stays
    return cloud


def _already_elsewhere(port: int, wanted: int) -> str:
    return (
        f"It is up already, on port {port}, and stays there. To move it to port {wanted}, end it first: "
        f"{program()} down && {program()} up --port {wanted}"
    )


def stay(cloud: LocalCloudProcess) -> None:
    """Returns when the cloud has ended; an interruption ends it."""
    try:
        cloud.process.wait()
    finally:
        cloud.stop()


def program() -> str:
    """How this command line was called, so that what is printed can be pasted, in a virtual environment or not."""
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "dreamdrop" else "dreamdrop"


def describe_status() -> str:
    known = process.status(STATE)
    if known is None:
        return "The local cloud is not up. Start it with: make up"
    if known.phase != "ready":
        return f"The local cloud is {known.phase} on port {known.port}, process {known.pid}."
    return f"The local cloud is up on port {known.port}, process {known.pid}.\n\n{introduction(Deployment.local())}"


def free_port(preferred: int) -> int:
    """The preferred port, or any other when something listens there."""
    for port in (preferred, 0):
        with closing(socket.socket()) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port of this machine is free")


def introduction(deployment: Deployment) -> str:
    """What to know and to try next, every line ready to be pasted."""
    api, bucket, endpoint = deployment.api_url, deployment.data_bucket, deployment.endpoint_url
    signing = f"--aws-sigv4 aws:amz:{deployment.region}:execute-api --user {deployment.account}:{LOCAL_SECRET}"
    keys = f"AWS_ACCESS_KEY_ID={deployment.account} AWS_SECRET_ACCESS_KEY={LOCAL_SECRET}"
    return f"""\
The local cloud is up.
  bucket  s3://{bucket}
  API     '{api}'
  page    '{api}/'        (key {deployment.account}, secret {LOCAL_SECRET})

Drop photos, then draw:
  {program()} drop {EXAMPLE}
  {program()} generate robot 'a photo of a sks robot on the beach' -n 2

The same with other tools:
  {keys} AWS_DEFAULT_REGION={deployment.region} \\
    aws s3 cp --recursive --endpoint-url {endpoint} {EXAMPLE} s3://{bucket}/datasets/robot/
  curl {signing} '{api}/v1/subjects'
  boto3.client("s3", endpoint_url="{endpoint}", region_name="{deployment.region}",
               aws_access_key_id="{deployment.account}", aws_secret_access_key="{LOCAL_SECRET}")

Log {LOG}. End it with: make down"""
