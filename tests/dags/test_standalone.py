"""The environment that `make airflow` gives to Airflow, asked of Airflow itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from dags import standalone

pytestmark = pytest.mark.integration

WAITS_MS = """
import asyncio
from airflow import settings
from sqlalchemy import text

async def asynchronous():
    async with settings.async_engine.connect() as connection:
        waits_ms = (await connection.execute(text("PRAGMA busy_timeout"))).scalar()
    await settings.async_engine.dispose()
    return waits_ms

with settings.engine.connect() as connection:
    print(connection.execute(text("PRAGMA busy_timeout")).scalar(), asyncio.run(asynchronous()))
"""


def test_both_of_airflows_connections_wait_a_minute_for_a_locked_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", raising=False)
    environment = standalone._environment(tmp_path, standalone.ROOT / "dags", 8080)
    command = [sys.executable, "-c", WAITS_MS]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.splitlines()[-1].split() == ["60000", "60000"]


def test_a_database_of_the_users_own_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow@db/airflow")
    environment = standalone._environment(tmp_path, standalone.ROOT / "dags", 8080)
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql://airflow@db/airflow"
    assert not [name for name in environment if "CONNECT_ARGS" in name]
