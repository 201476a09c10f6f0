"""The wheel, in an empty environment and an empty folder: stage notebooks are found, the demo's first stages run."""
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_installed_wheel_runs_outside_a_clone(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns("runs", ".git", "__pycache__", "_proc", "_docs", ".ipynb_checkpoints", "build", "*.egg-info"))
    (source / "runs").mkdir()
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    wheel = next(tmp_path.glob("mlpipe-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "mlpipe/notebooks/label.ipynb" in names and "mlpipe/settings.ini" in names
    assert not any("_tests" in n or "_bench" in n for n in names)

    # An environment of its own: mlpipe comes from the wheel, its dependencies are read from this one.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    site = Path(subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True).stdout.strip())
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    here = subprocess.run([sys.executable, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True).stdout.strip()
    (site / "dependencies.pth").write_text(here + "\n")
    for part in ("kernels", "nbconvert"): shutil.copytree(Path(sys.prefix) / "share/jupyter" / part, tmp_path / "venv/share/jupyter" / part)

    empty = tmp_path / "empty"; empty.mkdir()
    code = ("import mlpipe, sys; from mlpipe.config import get_config; from mlpipe.pipeline.runner import PipelineRunner; from mlpipe.pipeline.stage import TaskId\n"
            "assert mlpipe.__file__.startswith(sys.prefix), mlpipe.__file__\n"
            "r = PipelineRunner(get_config(synthetic={'days': 30}, symbols='MES'), run_id='first').run(before=TaskId('features', 'MES'), executor='serial')\n"
            "print({str(t): o.status for t, o in r.outcomes.items()}, [o.error for o in r.failed])")
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=empty)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'MES/ingest': 'ran', 'MES/clean': 'ran'" in done.stdout, done.stdout
    assert (empty / "runs/first/MES/clean/executed.html").exists()
