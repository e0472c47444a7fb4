"""
Certificate authorities and certificates for tests, made by openssl.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.testing.postgres import ThrowawayPostgres


def _openssl(*args: str) -> None:
    binary = shutil.which("openssl")
    if binary is None:
        pytest.skip("openssl is not installed here")
    subprocess.run([binary, *args], check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> Path:
    """
    Make an authority; gives its certificate, beside which its key lies.
    """
    certificate = folder / f"{name}.crt"
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", str(certificate)),
    )
    return certificate


def certify(folder: Path, authority: Path, host: str) -> tuple[Path, Path]:
    """
    Have an authority certify a server's host name; gives certificate and key.
    """
    key, request, certificate = folder / "server.key", folder / "server.csr", folder / "server.crt"
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={host}"),
        *("-keyout", str(key), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-days", "2", "-in", str(request), "-CA", str(authority), "-CAcreateserial"),
        *("-CAkey", str(authority.with_suffix(".key")), "-out", str(certificate)),
    )
    return certificate, key


def switch_tls_on(server: ThrowawayPostgres, certificate: Path, key: Path) -> None:
    """
    Let a running server speak TLS, and let the role `secured` in by TLS and SCRAM only.
    """
    folder = server.data_folder
    owner = folder.stat()
    for source, name in ((certificate, "server.crt"), (key, "server.key")):
        target = folder / name
        shutil.copyfile(source, target)
        target.chmod(0o600)
        os.chown(target, owner.st_uid, owner.st_gid)
    rules = folder / "pg_hba.conf"
    rules.write_text("hostssl all secured all scram-sha-256\nhostnossl all secured all reject\n" + rules.read_text())
    server.execute("CREATE ROLE secured SUPERUSER REPLICATION LOGIN PASSWORD 'a b@/:%'")
    server.execute("ALTER SYSTEM SET ssl = on")
    server.execute("SELECT pg_reload_conf()")
