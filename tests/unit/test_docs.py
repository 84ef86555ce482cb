"""The documentation says what runs: every method, error and setting, and none that is not there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexusd import __version__, errors
from nexusd.config import Config
from nexusd.config_reading import all_keys

PROJECT = Path(__file__).parents[2]
METHOD_NAME = re.compile(r"(?:[a-z]+\.)?[a-z][A-Za-z]*")


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    """The cells of every table row of the README."""
    text = (PROJECT / "README.md").read_text()
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.lstrip().startswith("|")
    ]


def wire_errors() -> dict[str, int]:
    """Kind and code of every error with a wire code."""
    found: dict[str, int] = {}
    waiting: list[type[errors.RpcError]] = [errors.RpcError]
    while waiting:
        kind = waiting.pop()
        found[kind.kind] = kind.code
        waiting += [inner for inner in kind.__subclasses__() if inner.__module__ == errors.__name__]
    return found


def methods() -> Iterator[str]:
    """The name of every `Method(name=...)` that api registers."""
    for path in sorted((PROJECT / "nexusd" / "api").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Method":
                for keyword in node.keywords:
                    if keyword.arg == "name":
                        assert isinstance(keyword.value, ast.Constant), "a method's name is written out"
                        yield str(keyword.value.value)


def test_the_error_table_holds_every_error_with_its_code_and_no_other(rows: list[list[str]]) -> None:
    documented = {}
    for row in rows:
        if re.fullmatch(r"`?-32\d{3}`?", row[0]):
            documented[row[1].strip("`")] = int(row[0].strip("`"))
    assert documented == wire_errors()


def test_the_method_reference_holds_every_method_and_no_other(rows: list[list[str]]) -> None:
    registered = set(methods())
    assert registered, "no method found: has the way of registering changed?"
    documented = {row[0].strip("`") for row in rows if re.fullmatch(f"`{METHOD_NAME.pattern}`", row[0])}
    assert registered - documented == set(), "not in the README"
    assert {name for name in documented if "." in name} - registered == set(), "in the README alone"


def test_every_method_is_registered_under_one_name() -> None:
    names = list(methods())
    assert len(names) == len(set(names))
    assert [name for name in names if not METHOD_NAME.fullmatch(name)] == []


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = {kind: int(code) for code, kind in re.findall(r"(-32\d{3}) ([a-z_]+)", errors.__doc__ or "")}
    assert drawn == wire_errors()


def test_every_code_means_one_thing() -> None:
    codes = list(wire_errors().values())
    assert len(codes) == len(set(codes))


def test_every_environment_variable_the_readme_names_is_one(rows: list[list[str]]) -> None:
    del rows  # the fixture says whether there is a README
    text = (PROJECT / "README.md").read_text()
    known = {key.variable for key in all_keys(Config)}
    # NEXUSD_SECTION__KEY is how the README says the rule itself
    assert set(re.findall(r"\bNEXUSD_[A-Z]+__[A-Z_]+", text)) - known - {"NEXUSD_SECTION__KEY"} == set()


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


LOCKS = ("requirements-build.lock", "requirements.lock", "requirements-dev.lock")


def test_the_locks_pin_every_dependency_with_its_hash_and_name_no_index_and_no_machine() -> None:
    text = "".join((PROJECT / "scripts" / name).read_text() for name in LOCKS)
    assert re.search(r"://|/home|/root|/tmp|--(extra-)?index|--find-links|--trusted", text) is None
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert [entry for entry in entries if not re.match(r"[\w.-]+==\S+.* \\\n +--hash=sha256:", entry)] == []
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["builtin"]]
    wanted += [name for group in project["dependency-groups"].values() for name in group]
    names = {re.split(r"[<>=]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names - {entry.split("==")[0] for entry in entries} == set()
