"""pytest collects every notebook as one item, run by nbdev's own runner."""
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collect_file(file_path, parent):
    parts = file_path.relative_to(HERE).parts
    if file_path.suffix == ".ipynb" and not any(p.startswith(("_", ".")) for p in parts):
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFile(pytest.File):
    def collect(self):
        yield NotebookItem.from_parent(self, name=self.path.stem)


class NotebookItem(pytest.Item):
    def runtest(self):
        from nbdev.test import test_nb
        environment, folder = dict(os.environ), Path.cwd()
        try:
            os.chdir(self.path.parent)
            ok, _ = test_nb(self.path)
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
        if not ok: pytest.fail(f"{self.path.relative_to(HERE)} failed; its traceback is above", pytrace=False)

    def reportinfo(self): return self.path, 0, f"notebook {self.path.relative_to(HERE)}"
