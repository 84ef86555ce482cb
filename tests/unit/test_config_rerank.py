from __future__ import annotations

from pathlib import Path

import pytest
from fakes.onnx_files import write_model_directory

from nexusd.config import load_settings
from nexusd.config_sections import RerankConfig
from nexusd.errors import ConfigError


def load(**settings: str) -> RerankConfig:
    environ = {f"NEXUSD_SEARCH__RERANK__{name}": value for name, value in settings.items()}
    return load_settings(config=None, data=None, environ=environ).config.search.rerank


def test_reranker_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert load().provider == "none"
    directory = write_model_directory(tmp_path, {"a": [1.0]})
    assert load(PROVIDER="onnx", MODEL=str(directory)).model == str(directory)
    assert load(PROVIDER="http", URL="http://localhost:8080/rerank").provider == "http"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"PROVIDER": "onnx"}, "model"),
        ({"PROVIDER": "onnx", "MODEL": "/nowhere"}, "model"),
        ({"PROVIDER": "http"}, "url"),
        ({"PROVIDER": "http", "URL": "ftp://x/y"}, "url"),
        ({"PROVIDER": "http", "URL": "http://me:secret@x/y"}, "url"),
        ({"API_KEY": "two words"}, "apiKey"),
    ],
)
def test_wrong_setting_is_named_and_no_secret_is_shown(settings: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"search\.rerank\.{name}") as error:
        load(**settings)
    assert "secret" not in str(error.value)
    assert "two words" not in str(error.value)
    assert "secret" not in repr(RerankConfig(api_key="secret"))
