"""Credentials for the processes that play an AWS service: of the role with AUTH=true, else of the root."""

from __future__ import annotations

import secrets

from ministack import app
from ministack.services import sts

from dreamdrop.deployment import LOCAL_SECRET
from dreamdrop.local.plugins.scope import in_account


def credentials_for_role(role_arn: str, account: str, region: str) -> dict[str, str]:
    """The AWS_* variables of a session of the role.

    AssumeRole itself is not called: the role trusts a service principal, which only the emulator can be.
    """
    if not app.AUTH:
        return {"AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": LOCAL_SECRET}
    role_name = role_arn.rsplit("/", 1)[-1]
    access_key = f"ASIA{secrets.token_hex(8).upper()}"
    secret_key, token = secrets.token_hex(20), secrets.token_hex(32)
    session = {
        "Arn": f"arn:aws:sts::{account}:assumed-role/{role_name}/SageMaker",
        "UserId": f"{role_name}:SageMaker",
        "SecretAccessKey": secret_key,
        "SessionToken": token,
    }
    in_account(account, region, sts.register_session, access_key, session)
    return {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_SESSION_TOKEN": token}
