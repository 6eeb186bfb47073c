"""Who may import whom."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = (
    ("messages", "schedule", "trial", "command_line", "loopback"),
    ("store", "tasks", "cluster"),
    ("method",),
    ("running", "handover"),
    ("commands",),
    ("__main__",),
)
"""The rooms of `rekd`, packages and single modules. Each imports only those of the floors before its own; the ground
floor's modules may import those that stand before them."""

PACKAGES = ("rekd", "analysis", "sweeps", "benchmarks")

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


def room(name: str) -> str:
    """The room that a dotted name of `rekd` lies in: `store` of `rekd.store.ledger`; empty for `rekd` itself."""
    return name.split(".")[1] if "." in name else ""


def rooms_used(path: str) -> set[str]:
    """The other rooms of `rekd` that one of its modules imports."""
    names = of_package(imported((ROOT / path).read_text(), package="rekd"), "rekd")
    known = {room for floor in FLOORS for room in floor}
    return ({room(name) for name in names} & known) - {room_of_file(path)}


def room_of_file(path: str) -> str:
    return Path(path).relative_to("rekd").parts[0].removesuffix(".py")


def too_low(own: str, used: set[str]) -> set[str]:
    """Rooms that `own` may not import: those that do not lie below it."""
    below: set[str] = set()
    for floor in FLOORS:
        if own in floor:
            beside = floor[: floor.index(own)] if floor is FLOORS[0] else ()
            return used - below - set(beside)
        below |= set(floor)
    raise AssertionError(f"{own} has no place")


def files_of_rekd() -> list[str]:
    return [str(file.relative_to(ROOT)) for file in sorted((ROOT / "rekd").rglob("*.py")) if file.name != "__init__.py"]


def longest_path(arrows: dict[str, set[str]]) -> int:
    """Nodes on the longest chain of imports. Raises CycleError where they go in a circle."""
    depth: dict[str, int] = {}
    for node in TopologicalSorter(arrows).static_order():
        depth[node] = 1 + max((depth[below] for below in arrows.get(node, ())), default=0)
    return max(depth.values())


def test_imports_are_found_wherever_they_stand():
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\ndef late():\n    from rekd import tune\n"
    found = imported(source, package="rekd")
    assert {"a.b", "c", "c.d", "rekd.e", "rekd.f", "rekd.tune"} <= found


def test_what_lies_higher_or_beside_may_not_be_imported():
    assert too_low("store", {"trial", "tasks", "method"}) == {"tasks", "method"}
    assert too_low("running", {"trial", "store", "method"}) == set()
    assert too_low("messages", {"trial"}) == {"trial"}


def test_every_module_of_rekd_has_its_room():
    assert {room_of_file(path) for path in files_of_rekd()} == {room for floor in FLOORS for room in floor}


@pytest.mark.parametrize("path", files_of_rekd())
def test_a_module_of_rekd_imports_only_what_lies_below_it(path):
    assert too_low(room_of_file(path), rooms_used(path)) == set()


def test_the_graph_of_rooms_is_small_and_goes_one_way():
    arrows: dict[str, set[str]] = {}
    for path in files_of_rekd():
        arrows.setdefault(room_of_file(path), set()).update(rooms_used(path))
    assert len(arrows) <= 15
    assert longest_path(arrows) <= 7
    with pytest.raises(CycleError):
        longest_path({**arrows, "trial": {"running"}})


def test_no_imports_go_in_a_circle_within_a_room():
    modules = {path.removesuffix(".py").replace("/", ".") for path in files_of_rekd()}
    arrows = {name: imported((ROOT / f"{name.replace('.', '/')}.py").read_text()) & modules for name in modules}
    assert longest_path(arrows) > 1


def sources() -> list[Path]:
    return [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]


def test_no_two_modules_have_one_name():
    names = Counter(file.name for file in sources() if not file.name.startswith("__"))
    assert [name for name, number in names.items() if number > 1] == []


def docstrings(file: Path) -> Iterator[str]:
    """All texts that stand by themselves in a module: of classes and functions, and below the names of values."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def test_docstrings_are_sentences():
    dangling = ["Of", "By", "As", "On", "From", "In", "For", "With", "At", "To"]
    assert [text for file in sources() for text in docstrings(file) if text.split()[0] in dangling] == []


def test_rekd_imports_neither_sweeps_nor_analysis():
    for path, names in modules_of("rekd").items():
        assert not of_package(names, "sweeps") | of_package(names, "analysis"), path


def test_analysis_imports_of_rekd_only_what_is_light():
    allowed = {"trial", "messages", "schedule", "command_line", "loopback", "store"}
    for path, names in modules_of("analysis").items():
        assert {room(name) for name in of_package(names, "rekd")} - {""} <= allowed, path
        assert not of_package(names, "sweeps"), path
        assert not {name.split(".")[0] for name in names} & set(HEAVY), path


def test_the_method_and_what_decides_know_nothing_of_ray():
    knows = {path for path, names in modules_of("rekd").items() if of_package(names, "ray")}
    bridge = {f"rekd/running/{name}.py" for name in ("gpu_shares", "loggers", "object_store", "tune", "worker")}
    assert "rekd/running/tune.py" in knows
    assert {path for path in knows if not path.startswith("rekd/cluster/")} <= bridge


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has after a statement."""
    program = f"{statement}; import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_trial_ledger_and_analysis_load_nothing_heavy():
    assert loaded_by("import rekd.trial, rekd.store.files, rekd.store.ledger, analysis") == set()
    assert loaded_by("import rekd.method.equations") == {"torch"}
