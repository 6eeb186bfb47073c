"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ORDER = (
    "command_line",
    "trial",
    "store",
    "claims",
    "ledger",
    "messages",
    "tensorfile",
    "arrays",
    "method",
    "streams",
    "views",
    "hub",
    "backbones",
    "weights",
    "models",
    "explain",
    "local_files",
    "task_file",
    "tasks",
    "dataset_tables",
    "images",
    "texts",
    "data",
    "checkpoint",
    "teacher",
    "train",
    "behaviour",
    "examples",
    "supplies",
    "run",
    "plan",
    "estimate",
    "calibrate",
    "progress",
    "cluster",
    "launched",
    "remote",
    "loggers",
    "sharing",
    "shelf",
    "worker",
    "tune",
    "cli",
    "__main__",
)
"""The modules of `rekd`: each imports only those before it."""

HEAVY = ("torch", "ray", "transformers", "datasets")


def imported(source: str, *, package: str = "") -> set[str]:
    """Dotted names of all that a module's text imports, inside functions too; of `from a import b` both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module or ''}".strip(".") if node.level else str(node.module)
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def modules_of(package: str) -> dict[str, set[str]]:
    """What each module of a package of this project imports, by its path."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return {str(file.relative_to(ROOT)): imported(file.read_text(), package=package) for file in files}


def of_package(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(f"{package}.")}


def too_low(module: str, names: set[str], order: tuple[str, ...]) -> set[str]:
    """Modules that `module` imports although they do not stand before it."""
    used = {name.split(".")[1] for name in of_package(names, "rekd") if "." in name}
    return (used & set(order)) - set(order[: order.index(module)])


def test_imports_are_found_wherever_they_stand():
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\ndef late():\n    from rekd import tune\n"
    found = imported(source, package="rekd")
    assert {"a.b", "c", "c.d", "rekd.e", "rekd.f", "rekd.tune"} <= found
    assert too_low("trial", found, ORDER) == {"tune"}
    assert too_low("cli", found, ORDER) == set()


def test_every_module_of_rekd_has_its_place():
    modules = {file.stem for file in (ROOT / "rekd").glob("*.py")} - {"__init__"}
    assert modules == set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_of_rekd_imports_only_those_before_it(module):
    names = imported((ROOT / "rekd" / f"{module}.py").read_text(), package="rekd")
    assert too_low(module, names, ORDER) == set()


def test_rekd_imports_neither_sweeps_nor_analysis():
    for path, names in modules_of("rekd").items():
        assert not of_package(names, "sweeps") | of_package(names, "analysis"), path


def test_analysis_imports_of_rekd_only_what_is_light():
    allowed = {"rekd.trial", "rekd.store", "rekd.ledger", "rekd.command_line"}
    for path, names in modules_of("analysis").items():
        modules = {".".join(name.split(".")[:2]) for name in of_package(names, "rekd")} - {"rekd"}
        assert modules <= allowed, path
        assert not of_package(names, "sweeps"), path
        assert not {name.split(".")[0] for name in names} & set(HEAVY), path


def test_the_loop_knows_nothing_of_ray():
    knows = {path for path, names in modules_of("rekd").items() if of_package(names, "ray")}
    assert (
        {"rekd/tune.py"}
        <= knows
        <= {
            f"rekd/{name}.py"
            for name in ("cluster", "launched", "remote", "loggers", "sharing", "shelf", "worker", "tune")
        }
    )


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has after a statement."""
    program = f"{statement}; import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_trial_ledger_and_analysis_load_nothing_heavy():
    assert loaded_by("import rekd.trial, rekd.store, rekd.ledger, analysis") == set()
    assert loaded_by("import rekd.method") == {"torch"}
