"""What is published works where it is installed: with and without the extension, and where there is no compiler."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbscale import native
from dbscale.drivers import embedded
from fix_postgres import Postgres, absent, binaries

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH has the usual programs and no C compiler."""
    place = tmp_path_factory.mktemp("bin")
    for name in ("sh", "env", "id", "uname", "getent"):
        if found := shutil.which(name):
            (place / name).symlink_to(found)
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "PATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sdist holds, unpacked: wheels are built from it alone."""
    place = tmp_path_factory.mktemp("sdist")
    build(ROOT, place, "sdist", dict(os.environ))
    with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
        archive.extractall(place, filter="data")
    (unpacked,) = [each for each in place.iterdir() if each.is_dir()]
    return unpacked


def build(tree: Path, to: Path, kind: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(to)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def data(server_root: Path, tmp_path: Path) -> Iterator[Path]:
    """Where the installed dbscale keeps its own server."""
    place = server_root / f"release-{tmp_path.name}"
    yield place
    for server in embedded.status(root=place):
        embedded.down(server.name, root=place, remove=True)


def install(wheel: Path, place: Path, environment: dict[str, str]) -> Path:
    """The program of a wheel in a new virtual environment; the dependencies are those of this one, dbscale is not."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, env=environment)
    python = place / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (site,) = (place / "lib").glob("python*/site-packages")
    # A path of a .pth is not searched for .pth files itself: the checkout that is installed here stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "dbscale"


@pytest.mark.embedded
@pytest.mark.parametrize("form", ["compiled", "pure"])
def test_an_installed_wheel_migrates_the_sample(  # noqa: PLR0917 - pytest names them
    form: str, source: Path, bare: dict[str, str], marketplace: Path, data: Path, tmp_path: Path
) -> None:
    """Built from the sdist, the one with a compiler, the other without; installed and run where there is none."""
    if form == "compiled" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler")
    library = source / "src" / "dbscale" / "native" / native.file_name()
    library.unlink(missing_ok=True)  # each is built as if alone
    build(source, tmp_path, "wheel", dict(os.environ) if form == "compiled" else {**bare, "CC": "no-such-compiler"})
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stem.endswith("py3-none-any") is (form == "pure"), wheel.name

    environment = {**bare, "DBSCALE_DATA": str(data), "PATH": f"{bare['PATH']}:{binaries('18')}"}
    program = install(wheel, tmp_path / "venv", environment)
    (tmp_path / "dbscale.toml").write_text('[databases.main]\nurl = "embedded"\n')

    def dbscale(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = dbscale("migrate", str(marketplace), "main", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["verify"]["same"]
    assert {table["form"] for table in answer["tables"]} == {"binary" if form == "compiled" else "csv"}
    said = json.loads(dbscale("doctor", "main", "--json").stdout)
    assert said["versions"]["extension"].startswith("compiled" if form == "compiled" else "none")
    with psycopg.connect(dbscale("local", "url").stdout.strip()) as connection:
        # The catalog's revisions came out of the wheel: nothing else of dbscale is to be had there.
        assert connection.execute("SELECT count(*) FROM dbscale.alembic_version").fetchone() == (1,)
    python = program.with_name("python")
    where = subprocess.run(
        [str(python), "-c", "import dbscale.catalog as c; print(c.__file__, c.folder())"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert all(Path(each).is_relative_to(tmp_path / "venv") for each in where), where


def test_the_sdist_holds_what_its_own_scripts_and_tests_need(source: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    assert [name for name in listed.stdout.splitlines() if not (source / name).exists()] == []
    assert not list(source.rglob("*.so")), "a library of the machine that made it"


def steps(document: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The variables and the commands of a workflow, GitHub's or GitLab's."""
    if "jobs" in document:
        (job,) = document["jobs"].values()
        assert {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step} == {
            "actions/checkout", "actions/setup-python",
        }  # fmt: skip
        assert job["services"]["postgres"]["ports"] == ["5432:5432"]
        return job["env"], [step["run"] for step in job["steps"] if "run" in step]
    (job,) = document.values()
    assert job["artifacts"]["reports"] == {"junit": "migrations.xml"}
    return job["variables"], job["script"]


@pytest.mark.parametrize("host", ["GitHub Actions", "GitLab"])
def test_the_workflows_of_the_page_run(
    host: str, source: Path, bare: dict[str, str], server: Postgres, tmp_path: Path
) -> None:
    """As they stand in docs/ci.md, on a sample project with a fault, in an environment with the pure wheel alone."""
    if importlib.util.find_spec("yaml") is None:
        absent("PyYAML is not installed")
    import yaml

    section = (ROOT / "docs" / "ci.md").read_text().partition(f"## {host}\n")[2]
    variables, commands = steps(yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0]))
    build(source, tmp_path, "wheel", {**bare, "DBSCALE_PURE": "1"})
    (wheel,) = tmp_path.glob("*.whl")
    program = install(wheel, tmp_path / "venv", bare)
    project = Path(shutil.copytree(ROOT / "tests" / "projects" / "flask_migrate", tmp_path / "project"))
    revision = project / "migrations" / "versions" / "b2_posts.py"
    revision.write_text(revision.read_text().replace("nullable=True", "nullable=False"))

    assert variables["DBSCALE_TEST_URL"].startswith("postgresql://postgres:test@")
    python = program.with_name("python")
    (program.with_name("pytest")).write_text(f'#!/bin/sh\nexec "{python}" -m pytest "$@"\n')
    program.with_name("pytest").chmod(0o755)
    environment = {
        **bare, **variables, "DBSCALE_TEST_URL": server.url, "PATH": f"{program.parent}:{bare['PATH']}:/usr/bin:/bin",
        "PIP_NO_INDEX": "1", "GITHUB_ACTIONS": "true" if host.startswith("GitHub") else "",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)], cwd=project, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    cases = list(ET.parse(project / "migrations.xml").getroot().iter("testcase"))
    failed = {case.attrib["name"] for case in cases if case.find("failure") is not None}
    assert done.returncode == 1, done.stdout + done.stderr
    assert {case.attrib["classname"] for case in cases} == {"dbscale"}
    assert {"single_head", "lint", "models_match"} <= {case.attrib["name"] for case in cases}
    assert "seeded_data_survives" in failed, done.stdout
    noted = [line for line in done.stdout.splitlines() if line.startswith("::error file=migrations/versions/b2_posts")]
    assert bool(noted) is host.startswith("GitHub")
