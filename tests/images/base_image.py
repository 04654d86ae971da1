"""The base image of both Dockerfiles, made here from Debian's packages: this machine reaches no registry of images.

Not python:3.11-slim-bookworm itself, but the same Debian and the same minor version of Python. Neither has a compiler.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.images import machine
from tests.images.store import BuildError, Store

BASE_IMAGE = "localhost/python-3.11-bookworm"
_PACKAGES = "python3,python3-pip,ca-certificates"
_TRUST = "/etc/ssl/certs/of-this-machine.pem"
_PASSED_ON = ("index-url", "find-links", "timeout")
_DOCKERFILE = f"""\
FROM scratch
ADD base.tar /
COPY pip.conf /etc/pip.conf
COPY trust.pem {_TRUST}
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
RUN ln -s python3 /usr/bin/python
"""


def make_base_image(store: Store) -> None:
    """With this machine's settings for pip, so that RUN finds packages as this machine does. Raises BuildError."""
    context = store.folder / "base"
    context.mkdir(parents=True)
    archive = context / "base.tar"
    command = ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", machine.DEBIAN, str(archive)]
    made = subprocess.run([*command, str(machine.debian_sources())], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise BuildError(f"mmdebstrap made no base image:\n{made.stderr[-4000:]}")
    _write_settings(context)
    (context / "Dockerfile").write_text(_DOCKERFILE)
    store.build(context, "Dockerfile", BASE_IMAGE, arguments={})
    shutil.rmtree(context)


def _write_settings(context: Path) -> None:
    options = machine.pip_options()
    lines = ["[global]", *(f"{name} = {' '.join(options[name].split())}" for name in _PASSED_ON if name in options)]
    trust = machine.certificates(options)
    if trust is not None:
        lines.append(f"cert = {_TRUST}")
    (context / "trust.pem").write_bytes(trust.read_bytes() if trust else b"")
    (context / "pip.conf").write_text("\n".join(lines))
