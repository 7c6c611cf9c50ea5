"""How long the standalone Airflow's SQLite waits for its lock.

A file of its own, for Airflow imports it by name while its settings are made.
"""

CONNECT_ARGS = {"timeout": 60.0}
"""Seconds. SQLite's own 5 end as an HTTP 500 where a run is triggered while the scheduler is busy."""
