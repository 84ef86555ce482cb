"""The settings in a backup hold nothing secret, however it is written."""

from __future__ import annotations

import pytest
import yaml

from nexusd.backup.settings_copy import LEFT_OUT, without_secrets

HIDDEN = "hunter2"


@pytest.mark.parametrize("text", [
    "index:\n  apiKey: hunter2\n",
    "index: {apiKey: hunter2, url: http://localhost}\n",
    "index:\n  apiKey: >-\n    hunter2\n",
    '"index":\n  "api\\u004bey": hunter2\n',
    "embedding:\n  # apiKey: hunter2\n  apiKey: null\n",
    "embedding:\n  url: https://me:hunter2@example.org/v1\n",
    "embedding:\n  url: https://example.org/v1?key=hunter2\n",
    "embedding:\n  password: [hunter2]\n",
    "other:\n  - token: hunter2\n",
])  # fmt: skip
def test_no_secret_is_left(text: str) -> None:
    shown = without_secrets(text.encode())
    assert shown is not None
    assert HIDDEN not in shown.decode()
    assert isinstance(yaml.safe_load(shown), dict)


def test_everything_else_is_as_it_was() -> None:
    text = "server:\n  tcp: {port: 3002, tls: {keyFile: /etc/key.pem}}\nembedding: {apiKey: x, url: 'http://h:1/v'}\n"
    assert yaml.safe_load(without_secrets(text.encode()) or b"") == {
        "server": {"tcp": {"port": 3002, "tls": {"keyFile": "/etc/key.pem"}}},
        "embedding": {"apiKey": LEFT_OUT, "url": "http://h:1/v"},
    }


@pytest.mark.parametrize("text", [
    b"a: [", b"\xff\xfe\xff", b"a: !!python/object:os.system x", b"a: &x [1]\nb: *x\n", b"[" * 1500,
])  # fmt: skip
def test_what_cannot_be_read_is_left_out(text: bytes) -> None:
    assert without_secrets(text) is None
