"""Runs that others have made, into the run table: tables, W&B, trackio and TensorBoard logs.

    sources.py  what a path holds -> a Log per run with a history (wandb_log, trackio_db, tensorboard_log, tables),
                and the rows of a table that are runs by themselves, as columns (tables.py)
    names.py    which column is what, guessed with a reason or as told
    points.py   a run's finished value, or its rows at chosen tokens
    rows.py     both -> rows of the run table, as columns (columns.py, units.py, params.py, teachers.py)
    store.py    rows -> FOLDER/runs.parquet or TABLE.parquet, with a record of where each came from

Everything here reads files; nothing is trained, fitted or planned.
"""
