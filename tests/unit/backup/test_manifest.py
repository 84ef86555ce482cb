"""Manifests are read by several threads from the first moment on."""

from __future__ import annotations

import subprocess
import sys

READ_AT_ONCE = """
import sys, threading
from nexusd.backup.manifest import DatabaseFacts, Manifest, Member, decode_manifest, encode_manifest
manifest = encode_manifest(Manifest(
    format=1, name="n", kind="manual", created_at=1, program="1", members=[Member(name="m", bytes=1, sha256="0" * 64)],
    database=DatabaseFacts(bytes=1, sha256="0" * 64, application_id=1, schema_version=1, sqlite_version="3", epoch="e",
                           model=None, rows={"episodes": 1}),
))
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)

def read():
    together.wait()
    decode_manifest(manifest)

threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_that_read_their_first_manifest_at_once_do_not_end_the_program() -> None:
    for _ in range(8):
        read = subprocess.run([sys.executable, "-c", READ_AT_ONCE], capture_output=True, text=True, check=False)
        assert (read.returncode, read.stderr) == (0, "")
