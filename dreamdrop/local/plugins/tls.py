"""Wart: with AUTH=true an `enforce_ssl` bucket policy denies every local call, because local HTTP is not TLS.

The loopback interface is taken for TLS, so that the bucket policy of the cloud deploys and is evaluated here.
"""

from __future__ import annotations

from ministack import app


def install() -> None:
    pin_stock = app.pin_request_origin

    def pin_as_secure(source_ip: str, secure_transport: bool) -> None:
        pin_stock(source_ip, True)

    app.pin_request_origin = pin_as_secure
