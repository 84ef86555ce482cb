from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusd.errors import BadName
from nexusd.files.names import MAX_BYTES, MAX_CHARACTERS, check_name


@pytest.mark.parametrize(
    "name",
    ["a", "Chef", "Küche", "my preset-2_b.v1", "日本語", "привет", "हिन्दी", "_private", "2024", "a" * 64, "x.yaml",
     "con"],
)
def test_names_that_people_give_are_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", ".hidden", "-rf", " lead", "trail ", "dot.", "a\0b", "a\nb",
     "a\tb", "\x7f", "a" * 65, "日" * 67, "a:b", "a*b", "a?b", "a|b", "~root", "$HOME", "%2e%2e",
     "a\u202eb", "a\u200bb", "\u0301a", "a\u2028b", "\ufeffa", "a\ud800", "\U0001f600",
     "a\u00a0b", "a\uff0fb", "a\u2215b", "a\u2024b"],
)
def test_tricks_are_refused(name: str) -> None:
    with pytest.raises(BadName):
        check_name(name)


def test_one_name_has_one_form() -> None:
    decomposed = unicodedata.normalize("NFD", "Küche")
    assert decomposed != "Küche"
    assert check_name(decomposed) == "Küche"


@given(st.text(max_size=80) | st.text(st.sampled_from("ab./\\-_ \0é\u0301日"), max_size=70))
def test_whatever_passes_names_one_file_inside_its_directory(text: str) -> None:
    try:
        name = check_name(text)
    except BadName:
        return
    assert check_name(name) == name
    assert 1 <= len(name) <= MAX_CHARACTERS
    assert len(name.encode()) <= MAX_BYTES
    path = Path("/presets") / f"{name}.yaml"
    assert path.parent == Path("/presets")
    assert path.name == f"{name}.yaml"
    assert not name.startswith((".", "-", " "))
    assert name.isprintable()
