"""SSM parameters that every account can read.

Wart: MiniStack knows those of two machine images only, and refuses, as AWS does, to let anybody write one.
"""

from __future__ import annotations

from ministack.services import ssm

POWERTOOLS = "/aws/service/powertools/python/"  # <architecture>/<runtime>/<version>
_LAYER = "arn:aws:lambda:{region}:017000801446:layer:AWSLambdaPowertoolsPythonV3-{runtime}-{architecture}:1"
# What `cdk bootstrap` writes; a parameter that it has really written comes first.
_BOOTSTRAP = "/cdk-bootstrap/"
_BOOTSTRAP_VERSION = "30"


def install(region: str) -> None:
    ssm._PUBLIC_AMI_PARAMETERS = _PublicParameters(region, ssm._PUBLIC_AMI_PARAMETERS)


class _PublicParameters(dict[str, str]):
    def __init__(self, region: str, known: dict[str, str]) -> None:
        super().__init__(known)
        self._region = region

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        if name.startswith(POWERTOOLS):
            architecture, runtime, _version = name.removeprefix(POWERTOOLS).split("/")
            return _LAYER.format(region=self._region, runtime=runtime.replace(".", ""), architecture=architecture)
        if name.startswith(_BOOTSTRAP):
            return _BOOTSTRAP_VERSION
        return super().get(name, default)
