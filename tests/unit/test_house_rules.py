"""The limits of docs and design that reviewers would otherwise have to count by hand."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("mugv", "components", "pipelines", "benchmarks", "images", "tests")
FILES = [f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in f.parts]


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_no_file_grows_past_400_lines():
    assert {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400} == {}


def test_no_function_grows_past_60_lines():
    long = {f"{f.relative_to(ROOT)}:{d.name}": n for f in FILES for d in functions(f) if (n := (d.end_lineno or 0) - d.lineno + 1) > 60}
    assert long == {}


def test_every_module_says_what_it_is_for():
    silent = [str(f.relative_to(ROOT)) for f in FILES if f.read_text().strip() and ast.get_docstring(ast.parse(f.read_text())) is None]
    assert silent == []


def test_the_mlflow_folder_never_shadows_the_package():
    assert list((ROOT / "mlflow").rglob("*.py")) == []


@pytest.mark.parametrize("module", ["mugv.cli.main", "mugv.stages.graph", "mugv.recipe"])
def test_light_modules_import_nothing_heavy(module):
    heavy = ["torch", "kfp", "mlflow", "av", "cv2", "pandas", "transformers", "dvc"]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/").stdout.strip() == "[]"
