"""Airflow on this machine, with the DAGs beside this file on the local backend, until Ctrl-C: `make airflow`.

Database, logs and password lie in one folder. What runs when it stops is ended with it, Ray included; the next start
takes the unfinished runs up again.
"""

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from kuberay.backend import collect
from kuberay.local import LocalBackend, LocalSettings
from ray_jobs.runtime import JAVA_OPTIONS

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 60
POOLS = {"asr_backfill": {"slots": 1, "description": "Ray clusters at once", "include_deferred": True}}
MIN_RAY_CPUS = 8
"""CPU slots of the Ray head: bookkeeping, not cores; every stage of the default run has to find its own."""


def main() -> int:
    options = _parser().parse_args()
    home: Path = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    environment = _environment(home, options.dags.resolve(), options.port)
    for port in (options.port, options.port + 1, options.port + 2):
        if _taken(port):
            print(f"port {port} is taken: another Airflow? Stop it, or choose another with PORT=", file=sys.stderr)
            return 1
    for sign in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(sign, signal.default_int_handler)
    print(f"Airflow is starting, which takes a minute; its output is in {home / 'standalone.log'}", flush=True)
    try:
        with (home / "standalone.log").open("wb") as log, _local_heads_ended(environment):
            _prepare(environment, home, log.fileno())
            with _standalone(environment, log.fileno()) as airflow:
                _until_healthy(airflow, options.port)
                print(_welcome(home, options.port), flush=True)
                airflow.wait()
    except KeyboardInterrupt:
        print("stopped")
        return 0
    except (subprocess.CalledProcessError, TimeoutError) as error:
        print(f"Airflow does not start ({error}); see {home / 'standalone.log'}", file=sys.stderr)
        return 1
    print(f"Airflow has ended by itself; see {home / 'standalone.log'}", file=sys.stderr)
    return 1


def ray_folder(home: Path) -> Path:
    """Where this Airflow's Ray heads live: short, because Unix sockets lie below it."""
    return Path("/tmp") / f"kuberay-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"


def _environment(home: Path, dags: Path, port: int) -> dict[str, str]:
    """What the user has set wins over what we propose, and not over what keeps this Airflow apart from others."""
    proposed = {
        "CALLMILL_INPUT": str(ROOT / "tests" / "data" / "sample_calls"),
        "CALLMILL_OUTPUT": str(home / "results"),
        "KUBERAY_LOCAL_NUM_CPUS": str(max(os.cpu_count() or 1, MIN_RAY_CPUS)),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    }
    if "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in os.environ:
        proposed["AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS"] = "dags.sqlite.CONNECT_ARGS"
        proposed["AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC"] = "dags.sqlite.CONNECT_ARGS"
    return {
        **proposed,
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "KUBERAY_BACKEND": "local",
        "KUBERAY_LOCAL_FOLDER": str(ray_folder(home)),
        "KUBERAY_RAY_PYTHON": sys.executable,
        "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(port + 1),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(port + 2),
    }


def _prepare(environment: Mapping[str, str], home: Path, log: int) -> None:
    """The database and the pools."""
    pools = home / "pools.json"
    pools.write_text(json.dumps(POOLS))
    for words in (["db", "migrate"], ["pools", "import", str(pools)]):
        command = [sys.executable, "-m", "airflow", *words]
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)


@contextmanager
def _standalone(environment: Mapping[str, str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own, so that Ctrl-C reaches it once, from here, and whatever it started ends with it."""
    command = [sys.executable, "-m", "airflow", "standalone"]
    airflow = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield airflow
    finally:
        try:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(airflow.pid, signal.SIGINT)
                airflow.wait(STOP_TIMEOUT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(airflow.pid, signal.SIGKILL)


@contextmanager
def _local_heads_ended(environment: Mapping[str, str]) -> Iterator[None]:
    """Whatever Ray still runs when Airflow has stopped is ended, and its files are removed."""
    settings = LocalSettings.from_environment(environment)

    async def end() -> None:
        async with LocalBackend(settings) as backend:
            await collect(backend, datetime.max.replace(tzinfo=UTC))

    try:
        yield
    finally:
        asyncio.run(end())
        shutil.rmtree(settings.folder, ignore_errors=True)


def _until_healthy(airflow: subprocess.Popen[bytes], port: int) -> None:
    """Raises TimeoutError where it takes too long, CalledProcessError where Airflow ends."""
    for _ in range(START_TIMEOUT_S):
        if (status := airflow.poll()) is not None:
            raise subprocess.CalledProcessError(status, "airflow standalone")
        if _healthy(port):
            return
        time.sleep(1)
    raise TimeoutError(f"not healthy after {START_TIMEOUT_S} s")


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5) as answer:
            health = json.load(answer)
    except OSError:
        return False
    return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))


def _welcome(home: Path, port: int) -> str:
    passwords = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text())
    return (
        f"Airflow: http://127.0.0.1:{port}  user admin, password {passwords['admin']}\n"
        "Trigger asr_workflow or asr_workflow_fused: the form proposes the sample calls. Ctrl-C stops everything."
    )


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dags.standalone", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("home", type=Path, help="folder of Airflow's database, logs and password")
    parser.add_argument("--dags", type=Path, default=ROOT / "dags", help="folder of the DAGs (default: beside this)")
    parser.add_argument("--port", type=int, default=8080, help="of the UI; the next two serve logs (default: 8080)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
