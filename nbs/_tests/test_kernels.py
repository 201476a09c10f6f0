"""numba caches a kernel against its own file: one that calls another module's kernel would go stale when that one changes."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "mlpipe"
MODULES = [p for p in sorted(ROOT.rglob("*.py")) if "njit" in p.read_text()]


@pytest.mark.parametrize("module", MODULES, ids=[str(p.relative_to(ROOT)) for p in MODULES])
def test_kernels_call_only_their_own_module(module):
    tree = ast.parse(module.read_text())
    foreign = {a.asname or a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("mlpipe"))
               for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("njit" in ast.dump(d) for d in node.decorator_list):
            used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & foreign
            assert not used, f"{node.name} uses {used} of another module"
