#!/usr/bin/env python3
"""Make core/src/logs/data/mlflow.db: a database with MLflow's tables of metrics, and a table that fills trees and chains of pages.

usage: mlflow.py     needs Python's own sqlite3; other versions of SQLite write other bytes with the same rows
"""

import sqlite3
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2] / "core/src/logs/data/mlflow.db"
# as MLflow 3 makes them, without the other tables' foreign keys
TABLES = """
PRAGMA page_size = 512;
CREATE TABLE runs (
    run_uuid VARCHAR(32) NOT NULL, name VARCHAR(250), source_type VARCHAR(20), status VARCHAR(9), start_time BIGINT,
    end_time BIGINT, lifecycle_stage VARCHAR(20), experiment_id INTEGER,
    CONSTRAINT run_pk PRIMARY KEY (run_uuid),
    CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted'))
);
CREATE TABLE "metrics" (
    "key" VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT NOT NULL, run_uuid VARCHAR(32) NOT NULL,
    step BIGINT DEFAULT '0' NOT NULL, is_nan BOOLEAN DEFAULT '0' NOT NULL,
    CONSTRAINT metric_pk PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan),
    CHECK (is_nan IN (0, 1))
);
CREATE TABLE many (number INTEGER, half FLOAT, text TEXT);
"""

PLACE.unlink(missing_ok=True)
with sqlite3.connect(PLACE) as database:
    database.executescript(TABLES)
    for name, uuid, stage in [("lora", "a1" * 16, "active"), ("wide", "b2" * 16, "active"), ("old", "c3" * 16, "deleted")]:
        database.execute("INSERT INTO runs VALUES (?, ?, 'LOCAL', 'FINISHED', 0, 1, ?, 1)", (uuid, name, stage))
    rows = []
    for step in range(10, 60, 10):
        rows.append(("loss", 5 - step / 10, step, "a1" * 16, step, 0))
        rows.append(("eval/loss", 3 - step / 20, step, "a1" * 16, step, 0))
        rows.append(("eval/loss", 7.5, step, "b2" * 16, step, 0))
        rows.append(("eval/loss", 9.5, step, "c3" * 16, step, 0))
    rows.append(("eval/loss", 0.125, 99, "a1" * 16, 20, 0))  # logged again, later
    rows.append(("eval/loss", 0.0, 60, "a1" * 16, 60, 1))  # NaN
    rows.append(("eval/loss", 1.7976931348623157e308, 70, "a1" * 16, 70, 0))  # infinity
    database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", rows)
    for i in range(64):
        database.execute("INSERT INTO many VALUES (?, ?, ?)", ((i - 32) * 10 ** (i % 16), i / 2, "é" * (i * i // 32)))
    database.execute("ALTER TABLE many ADD COLUMN later TEXT")
database.close()
print(PLACE.stat().st_size, "bytes")
