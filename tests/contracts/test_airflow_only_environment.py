"""The operators and DAGs in the environment of the Airflow image: its lock file and our code, nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "airflow.txt"
ENGINES = ["ray", "raydp", "torch", "pyspark", "vllm", "pyarrow", "transformers", "faster_whisper"]

CHECK = """
import importlib, importlib.util, pathlib, sys
import kuberay.operators, kuberay.triggers
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    importlib.import_module(path.stem)
installed = [name for name in sys.argv[2:] if importlib.util.find_spec(name)]
assert not installed, f"the Airflow image would hold {installed}"
"""


def test_operators_and_dags_import_where_only_airflow_is(tmp_path):
    uv = Path(sys.executable).with_name("uv")
    if not (LOCK.exists() and uv.exists()):
        pytest.skip("needs requirements/airflow.txt and uv beside this interpreter")
    environment = {
        **os.environ,
        "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""),
        "AIRFLOW_HOME": str(tmp_path / "home"),
    }
    venv = tmp_path / "venv"
    try:
        subprocess.run(
            [uv, "venv", "--quiet", "--python", sys.executable, venv], env=environment, check=True, timeout=60
        )
        python = venv / "bin" / "python"
        install = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, LOCK]
        subprocess.run(install, env=environment, check=True, timeout=300)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "dags")])
        command = [python, "-c", CHECK, str(ROOT / "dags"), *ENGINES]
        answer = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert answer.returncode == 0, answer.stderr[-2000:]
    finally:
        shutil.rmtree(venv, ignore_errors=True)
