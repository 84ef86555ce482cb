"""The documentation says what runs: every method, error and setting, and none that is not there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from harness.methods import real_table

from nexusd import __version__, errors
from nexusd.config_reading import all_keys
from nexusd.config_sections import Config

PROJECT = Path(__file__).parents[2]
METHOD_NAME = re.compile(r"(?:[a-z][A-Za-z]*\.)?[a-z][A-Za-z]*")


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


def methods() -> set[str]:
    """The name of every method that the daemon has."""
    return {method.name for method in real_table()}


def in_backticks(text: str) -> set[str]:
    """Every `name` and `resource.verb` of a text; longer pieces of code are none."""
    return set(re.findall(f"`({METHOD_NAME.pattern})`", text))


def test_the_error_table_holds_every_error_with_its_code_and_no_other(rows: list[list[str]]) -> None:
    documented = {}
    for row in rows:
        if re.fullmatch(r"`?-32\d{3}`?", row[0]):
            documented[row[1].strip("`")] = int(row[0].strip("`"))
    assert documented == wire_errors()


def test_the_readme_names_every_method_in_a_table(rows: list[list[str]]) -> None:
    named = {name for row in rows for cell in row for name in in_backticks(cell)}
    assert methods() - named == set(), "not in the README"


def test_the_readme_names_no_method_that_there_is_not(rows: list[list[str]]) -> None:
    registered = methods()
    resources = {name.partition(".")[0] for name in registered}
    settings = {key.name for key in all_keys(Config)}  # sections have names that resources have too
    settings |= {name.rpartition(".")[0] for name in settings}
    named = {name for name in in_backticks((PROJECT / "README.md").read_text()) if name.partition(".")[0] in resources}
    for row in rows:  # in a row of methods a name of no known resource is meant as a method too
        names = {name for cell in row for name in in_backticks(cell) if "." in name}
        named |= names if names & registered else set()
    assert {name for name in named if "." in name} - registered - settings == set(), "in the README alone"


def test_the_reference_names_every_method_and_no_other() -> None:
    page = (PROJECT / "nexusd" / "wire" / "METHODS.md").read_text()
    methods_part, _, _ = page.partition("\n## Records\n")
    headings = re.findall(r"^#{2,3} (\S+)$", methods_part, re.MULTILINE)
    resources = {name.partition(".")[0] for name in methods() if "." in name}
    assert methods() <= set(headings)
    assert set(headings) - methods() - resources == set()


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
BY_OPTION = {"fuzz"}    # a group that nothing installs by itself


def test_the_locks_pin_every_dependency_with_its_hash_and_name_no_index_and_no_machine() -> None:
    text = "".join((PROJECT / "scripts" / name).read_text() for name in LOCKS)
    assert re.search(r"://|/home|/root|/tmp|--(extra-)?index|--find-links|--trusted", text) is None
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert [entry for entry in entries if not re.match(r"[\w.-]+==\S+.* \\\n +--hash=sha256:", entry)] == []
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["builtin"]]
    groups = project["dependency-groups"]
    wanted += [name for group in groups.keys() - BY_OPTION for name in groups[group]]
    names = {re.split(r"[<>=]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names - {entry.split("==")[0] for entry in entries} == set()
