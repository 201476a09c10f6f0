"""What every notebook and module owes the others, read off the sources."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(part.startswith(("_", ".")) for part in p.relative_to(ROOT / "nbs").parts))
MODULES = sorted(p for p in (ROOT / "mlpipe").rglob("*.py") if p.name != "_modidx.py")
STAGES = [p for p in NOTEBOOKS if p.parent.name == "stages"]


def cells(notebook):
    return [(c["cell_type"], "".join(c["source"]), c.get("metadata", {}).get("tags", [])) for c in json.loads(notebook.read_text())["cells"]]


def exported(source):
    return re.match(r"#\|\s*export\b", source.strip()) is not None


def ids(paths): return [str(p.relative_to(ROOT)) for p in paths]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=ids(NOTEBOOKS))
def test_anatomy(notebook):
    kinds = cells(notebook)
    title = kinds[0]
    assert title[0] == "markdown" and re.fullmatch(r"# .+\n> .+", title[1].strip()), "the first cell is `# Title` and `> promise`, nothing else"
    assert not re.search(r"\d", notebook.stem), "no numbers in names"
    for kind, source, _ in kinds:
        if kind != "code": continue
        lines = [line for line in source.splitlines() if line.strip()]
        if exported(source): assert len(lines) <= 41, f"an export cell of {len(lines)} lines wants splitting: {lines[1]}"
        assert "#| hide" not in source, "no hidden cells"


def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=ids(NOTEBOOKS))
def test_imports_stand_alone(notebook):
    for kind, source, _ in cells(notebook):
        if kind != "code" or source.lstrip().startswith("%"): continue
        body = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith(("#|", "%", "!")))).body
        if any(is_import(n) for n in body):
            others = [n for n in body if not is_import(n)]
            assert not others, f"imports share a cell with work: {ast.unparse(others[0])[:80]}"
        for node in body:                                          # the docs run every cell that imports, by itself
            typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if typing or isinstance(node, (ast.FunctionDef, ast.ClassDef)) or is_import(node): continue
            assert not any(is_import(n) for n in ast.walk(node)), f"imports share a cell with work: {ast.unparse(node)[:80]}"


@pytest.mark.parametrize("notebook", STAGES, ids=ids(STAGES))
def test_stage_notebook_has_a_run_section(notebook):
    from mlpipe.pipeline.section import assigned, run_cells
    import nbformat
    run = run_cells(nbformat.read(notebook, as_version=4).cells)
    parameters = [c for c in run if "parameters" in (c.metadata.get("tags") or [])]
    assert len(parameters) == 1
    lines = parameters[0].source.splitlines()
    assert all(re.match(r"\w+ = .+  # .+", line) for line in lines), "one assignment a line, each with a comment"
    assert {"symbol", "run_dir"} <= assigned(parameters[0].source)
    assert len(STAGES) == 13


@pytest.mark.parametrize("module", MODULES, ids=ids(MODULES))
def test_module_size(module):
    assert len(module.read_text().splitlines()) <= 650


# Who may know whom: a package of the left may import only what stands on the right, beside itself and what all may know.
MAY_KNOW = {"data": set(), "features": {"data"}, "labels": set(), "search": {"labels"}, "splits": set(), "scaling": {"features"},
            "validation": {"data", "features", "labels", "splits", "scaling", "models"}, "models": {"splits"}, "ensemble": {"models", "splits"},
            "backtest": {"labels", "models", "ensemble"}, "experiments": set(),
            "tuning": {"data", "models", "scaling", "splits"}}
COMMON = {"config", "files", "instruments", "page", "figure", "primaries"}


def imports_of(module):
    package = list(module.relative_to(ROOT).with_suffix("").parts)
    base = package[:-1]
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = ".".join((base[:len(base) - node.level + 1] if node.level else []) + ([node.module] if node.module else []))
            yield stem
            yield from (f"{stem}.{a.name}" for a in node.names)


@pytest.mark.parametrize("module", MODULES, ids=ids(MODULES))
def test_who_may_know_whom(module):
    parts = module.relative_to(ROOT / "mlpipe").with_suffix("").parts
    home = parts[0]
    known = {name.split(".")[1] for name in imports_of(module) if name.startswith("mlpipe.")}
    known = {k for k in known if (ROOT / "mlpipe" / k).is_dir() or (ROOT / "mlpipe" / f"{k}.py").is_file()} - COMMON - {home}
    if home in MAY_KNOW: assert known <= MAY_KNOW[home], f"{home} must not know {known - MAY_KNOW[home]}"
    if home == "stages":
        assert "cli" not in known
        assert {n for n in imports_of(module) if n.startswith("mlpipe.pipeline.")} <= {"mlpipe.pipeline.stage"} | {
            n for n in imports_of(module) if n.startswith("mlpipe.pipeline.stage.")}
    if home == "pipeline": assert "stages" not in known, "the pipeline knows stages by the registry only"


@pytest.mark.parametrize("package", ["data", "features", "labels", "splits", "scaling", "search", "backtest"])
def test_no_torch_outside_of_models(package):
    for module in (ROOT / "mlpipe" / package).rglob("*.py"):
        assert not any(name.split(".")[0] in ("torch", "lightning", "wandb") for name in imports_of(module)), module


def test_light_imports():
    code = "import sys, mlpipe, mlpipe.cli, mlpipe.pipeline; print([m for m in ('torch', 'lightning', 'wandb', 'matplotlib', 'numba') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_nothing_private_in_the_sources():
    for file in [*NOTEBOOKS, *MODULES, ROOT / "README.md", ROOT / "settings.ini", ROOT / "pyproject.toml"]:
        assert not re.search(r"(?<![\w.])/(?:home|Users|root|tmp)/\w", file.read_text()), f"{file.name} names a path of a machine"


def test_every_notebook_is_in_the_sidebar():
    listed = set(re.findall(r"[\w/]+\.ipynb", (ROOT / "_quarto.yml").read_text()))
    assert listed == {p.relative_to(ROOT / "nbs").as_posix() for p in NOTEBOOKS}
