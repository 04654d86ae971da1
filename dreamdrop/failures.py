"""Whatever stops a command, told as a cause and a cure."""

from __future__ import annotations

import subprocess

from botocore.exceptions import BotoCoreError, ClientError

from contracts.errors import DreamdropError, ErrorReport
from dreamdrop.local.errors import LocalCloudError

EXPECTED = (
    DreamdropError,
    LocalCloudError,
    BotoCoreError,
    ClientError,
    subprocess.CalledProcessError,
    OSError,
)
"""What can go wrong outside our code. Anything else is a defect and keeps its traceback."""

LAST_LINES = 15


def explain(error: BaseException) -> ErrorReport:
    if isinstance(error, DreamdropError):
        return error.report
    if isinstance(error, LocalCloudError):
        return ErrorReport(code="local_cloud", cause=error.cause, cure=error.cure)
    if isinstance(error, subprocess.CalledProcessError):
        return _explain_program(error)
    if isinstance(error, BotoCoreError | ClientError):
        return ErrorReport(
            code="aws", cause=str(error), cure="Check the credentials, the region and their permissions."
        )
    return ErrorReport(code="system", cause=str(error), cure="Mend what the message names and try again.")


def _explain_program(error: subprocess.CalledProcessError) -> ErrorReport:
    said = error.stderr or error.stdout or b""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    ending = "\n".join(text.strip().splitlines()[-LAST_LINES:])
    command = " ".join(str(part) for part in error.cmd) if isinstance(error.cmd, list | tuple) else str(error.cmd)
    return ErrorReport(
        code="program_failed",
        cause=f"{command} ended with status {error.returncode}. {ending}".strip(),
        cure="Mend what its last lines name and try again.",
    )
