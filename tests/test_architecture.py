"""The rules of the house: which room may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("samuel", "flows", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
}


def imports(module: str) -> set[str]:
    """Every module name that `module` imports, wherever it does it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def below(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("samuel", ("prefect", "flows", "tests")),
        ("samuel.popdb", ("samuel.model", "samuel.train", "samuel.generate", "samuel.evaluate")),
        ("samuel.popdb", ("samuel.report", "samuel.baselines")),
        ("samuel.train", ("samuel.ablation",)),
        ("samuel.evaluate", ("samuel.ablation", "samuel.report", "samuel.train")),
        ("samuel.report", ("samuel.ablation",)),
        ("samuel.model", ("samuel.popdb", "samuel.codecs", "samuel.audio", "samuel.artifacts")),
        ("samuel.codecs", ("samuel.popdb", "samuel.model", "samuel.separators")),
        ("samuel.audio", ("samuel.popdb", "samuel.model", "samuel.codecs")),
        ("samuel.artifacts", ("samuel.audio", "samuel.popdb", "samuel.model", "samuel.codecs")),
        ("samuel.popdb.loader", ("samuel.train", "samuel.generate", "samuel.evaluate")),
        ("samuel.checkpoint", ("samuel.train", "samuel.generate", "samuel.evaluate")),
        ("samuel.generate", ("samuel.train", "samuel.evaluate", "samuel.report", "samuel.app")),
        ("flows.processes", ("prefect",)),
        ("flows.serve", ("prefect",))
    ]
)  # fmt: skip
def test_imports_point_one_way(room: str, forbidden: tuple[str, ...]) -> None:
    members = [module for module in MODULES if below(module, room)]
    assert members
    wrong = {m: sorted(i for i in imports(m) if below(i, *forbidden)) for m in members}
    assert {m: found for m, found in wrong.items() if found} == {}


def test_only_the_command_line_serves_the_page() -> None:
    users = {
        m for m in MODULES if not below(m, "samuel.app") and any(below(i, "samuel.app") for i in imports(m))
    }
    assert users == {"samuel.cli.models"}


def test_the_library_prints_nothing() -> None:
    calls = {
        module
        for module, path in MODULES.items()
        if below(module, "samuel") and not below(module, "samuel.cli")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert calls == set()


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    """`samuel` itself, a run that only downloads, a network that is not compiled, and `make serve`."""
    code = """
import sys
loaded = lambda *names: print([name for name in names if name in sys.modules])
import samuel.cli
loaded("torch", "librosa", "prefect", "gradio")
import samuel.doctor, samuel.popdb.acquire, samuel.popdb.accounts
loaded("torch", "prefect")
import samuel.model.unet
loaded("torch._dynamo")
import flows.serve
loaded("prefect")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["[]"] * 4


def test_files_stay_small() -> None:
    long = {str(p): n for p in MODULES.values() if (n := len(p.read_text().splitlines())) > 500}
    assert long == {}
