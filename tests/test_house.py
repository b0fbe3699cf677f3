"""Our own house: imports point one way, and nobody else's package is taken for ours."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.house import PACKAGES

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "kernels": set(),
    "filters": {"kernels"},
    "sigma_model": {"kernels"},
    "synth": {"kernels", "filters", "sigma_model"},
    "pipelines": {"kernels", "filters", "sigma_model", "synth"},
}
# they run on a GPU machine that has none of these
FORBIDDEN = {
    "kernels": {"ray", "vllm", "datatrove", "pydantic"},
    "sigma_model": {"ray", "vllm", "datatrove", "pydantic"},
    "filters": {"ray"},
}


def imports(file: Path) -> set[str]:
    """Top-level names of everything a file imports, at its head or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    wrong = []
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        found = imports(file)
        above = (found & set(PACKAGES)) - MAY_IMPORT[package] - {package}
        # the model's own plugin for vLLM is the one place that knows it
        barred = set() if "vllm_plugin" in file.parts else FORBIDDEN.get(package, set())
        for name in sorted(above | (found & barred)):
            wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_lives_there(package: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert text and len(text.splitlines()) >= 4
    for init in (ROOT / package).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(init.read_text())), f"{init} has no docstring"


def python(code: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("neighbour", ["transformers", "vllm"])
def test_neighbours_import_beside_our_kernels(neighbour: str) -> None:
    """Both look for a package called ``kernels`` that is not ours."""
    if importlib.util.find_spec(neighbour) is None:
        pytest.skip(f"{neighbour} is not installed")
    code = f"import kernels, {neighbour}; from pipelines.house import check_house; check_house()"
    if neighbour == "transformers":
        code += "; from transformers import LlamaForCausalLM, PreTrainedTokenizerFast"
    result = python(code)
    assert result.returncode == 0, result.stderr[-2000:]


def test_our_version_is_not_taken_for_theirs() -> None:
    """transformers takes a distribution ``kernels`` of 0.17 for Hugging Face's."""
    version = importlib.metadata.version("corpusmill")
    major, minor = (int(part) for part in version.split(".")[:2])
    assert (major, minor) != (0, 17)


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    """A PYTHONPATH on which somebody else's ``kernels`` comes first."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text('"""Not ours."""\n')
    return os.pathsep.join([str(tmp_path), str(ROOT)])


def test_foreign_kernels_stop_the_program(foreign: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines.cli", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": foreign},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    said = " ".join(result.stderr.split())
    assert said.startswith("corpusmill: the package 'kernels' that Python finds is not CorpusMill's")
    assert str(tmp_path / "kernels") in said and "pip uninstall kernels" in said
    assert "Traceback" not in said


def test_packages_that_ray_sent_are_ours(tmp_path: Path) -> None:
    """On a cluster each of our packages lies in a folder of its own."""
    homes = []
    for number, name in enumerate(PACKAGES):
        home = tmp_path / f"_ray_pkg_{number}"
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
        homes.append(str(home))
    code = "from pipelines.house import check_house; print(check_house())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(homes)}
    command = [sys.executable, "-P", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == str(tmp_path / "_ray_pkg_4"), result.stderr


def test_foreign_kernels_stop_a_worker(foreign: str) -> None:
    """A worker checks too: its machine may hold what the driver's does not."""
    code = f"""
import sys
sys.path.insert(0, {foreign.split(os.pathsep)[0]!r})
from pipelines.work import Task, run_item
task = Task(dataset="/nowhere", run="/nowhere", unit="a", shape="map", seed=0, keep_dropped="text",
            steps=[], item={{"item": "s00000", "key": "k"}})
print(run_item(task)["failure"]["message"])
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert "the package 'kernels' that Python finds is not CorpusMill's" in result.stdout
