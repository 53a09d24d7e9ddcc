"""What holds for the whole: sizes, layers, light imports, the wheel, documented errors, nothing of one machine."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import dbscale
from dbscale.cli import COMMANDS, SUMMARIES

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))

MODULE_LINES = 500
FUNCTION_LINES = 50
LONGER_MODULES = {
    # path below src/dbscale: the reason why it is better in one piece
}
LONGER_FUNCTIONS = {
    # "path below src/dbscale:function": the reason
}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def name(file: Path) -> str:
    return file.relative_to(ROOT / "src" / "dbscale").as_posix()


# Sizes and layers


def test_modules_are_of_a_size_to_read() -> None:
    lines = {name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    long = {module: count for module, count in lines.items() if count > MODULE_LINES}
    assert set(long) == set(LONGER_MODULES), long


def _lengths() -> Iterator[tuple[str, int]]:
    """Each function and its lines of code: docstring and comments do not count."""
    for file in SOURCES:
        text = file.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
                code = [line for line in text[start - 1 : node.end_lineno] if line.strip() and line.strip()[0] != "#"]
                yield f"{name(file)}:{node.name}", len(code)


def test_functions_are_of_a_size_to_read() -> None:
    long = {function: count for function, count in _lengths() if count > FUNCTION_LINES}
    assert set(long) == set(LONGER_FUNCTIONS), long


def test_layers_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# The command line


def test_help_imports_nothing_heavy() -> None:
    heavy = {"psycopg", "alembic", "sqlalchemy", "sqlglot", "rich", "apsw", "postgast", "asyncio", "urllib.request"}
    program = (
        "import sys; from dbscale.cli import run; assert run(['--help']) == 0;"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert not heavy & set(done.stderr.splitlines())


def test_every_command_is_there_and_has_a_summary() -> None:
    assert set(COMMANDS) == set(SUMMARIES)
    for command, place in COMMANDS.items():
        module, _, attribute = place.partition(":")
        assert hasattr(importlib.import_module(module), attribute), command


# The wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    [file] = place.glob("*.whl")
    return file


def test_the_wheel_holds_what_it_needs(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    sources = {file.relative_to(ROOT / "src").as_posix() for file in SOURCES}
    catalog = ROOT / "migrations" / "catalog"
    revisions = {file.relative_to(ROOT / "migrations").as_posix() for file in catalog.rglob("*.py")}
    assert any("versions/" in revision for revision in revisions)
    assert sources | {f"dbscale/migrations/{revision}" for revision in revisions} <= inside
    assert "dbscale/py.typed" in inside
    assert not [entry for entry in inside if entry.startswith(("tests", "scripts")) or "__pycache__" in entry]


def test_an_installed_wheel_makes_its_tables(wheel: Path, database: str, marketplace: Path, tmp_path: Path) -> None:
    """The catalog's revisions are found inside the package, not beside a checkout."""
    place = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(place)
    program = (
        "import dbscale, sys; from dbscale.cli import run; print(dbscale.__file__, file=sys.stderr);"
        "sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "migrate", str(marketplace), database, "--yes", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert str(place) in done.stderr
    assert done.returncode == 0, done.stderr


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == dbscale.__version__
    assert re.search(rf"^## {re.escape(dbscale.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


# The documentation


def _takers() -> dict[str, int]:
    """The functions that take a code, and its place among their arguments: `note(code, where, …)`."""
    takers = {}
    for file in SOURCES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
                if "code" in names:
                    takers[node.name] = names.index("code")
    return takers


def _codes() -> Iterator[tuple[str, str]]:
    """Every code of a finding and section of an error that the sources name, and where."""
    takers = _takers()
    for file in SOURCES:
        for node in ast.walk(tree(file)):
            values: list[ast.expr] = []
            if isinstance(node, ast.keyword) and node.arg in ("code", "see"):
                values = [node.value]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                values = node.args[takers[called] : takers[called] + 1] if called in takers else []
            elif isinstance(node, ast.ClassDef) and file.name == "errors.py":
                values = [statement.value for statement in node.body if isinstance(statement, ast.Assign)]
            for value in values:
                text = value.value if isinstance(value, ast.Constant) else None
                if isinstance(text, str) and re.fullmatch(r"(docs/errors\.md#)?[a-z][a-z0-9-]+", text):
                    yield text.removeprefix("docs/errors.md#"), name(file)


def test_every_finding_and_error_is_explained() -> None:
    pages = [ROOT / "docs" / "errors.md", *sorted((ROOT / "docs" / "errors.d").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.exists())
    explained = set(re.findall(r"^## `?([a-z0-9-]+)`?$", text, re.MULTILINE))
    missing = {code: where for code, where in _codes() if code and code not in explained}
    assert not missing


# Nothing of one machine


def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / entry for entry in listed.stdout.split("\0") if entry and (ROOT / entry).is_file()]


def test_no_file_knows_this_machine_or_a_registry() -> None:
    registries = (
        "pypi.org/simple",
        "pythonhosted.org",
        "registry-1.docker",
        "index.docker",
        "index-url",
        "trusted-host",
    )
    wrong = [re.escape(word) for word in registries] + [r"/home/[a-z]+/", r"/Users/[a-z]+/"]
    if len(ROOT.parts) > 2:
        wrong.append(re.escape(str(ROOT)) + r"\b")
    pattern = re.compile("|".join(wrong))
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in tracked()
        if file != Path(__file__)
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_scripts_run_from_anywhere() -> None:
    for script in [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]:
        if script.suffix:
            continue
        first = script.read_text(encoding="utf-8").splitlines()[0]
        assert os.access(script, os.X_OK), f"{script} is not executable"
        if "bash" in first:
            assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
