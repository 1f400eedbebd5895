"""Runs that others have made, into the run table: tables, W&B, trackio and TensorBoard logs.

    sources.py  what a path holds -> one Log per run (wandb_log, trackio_db, tensorboard_log, tables)
    names.py    which column is what, guessed with a reason or as told
    points.py   a run's finished value, or its rows at chosen tokens
    rows.py     Log -> rows of the run table (units.py, params.py, teachers.py)
    store.py    rows -> FOLDER/runs.parquet or TABLE.parquet, with a record of where each came from

Everything here reads files; nothing is trained, fitted or planned.
"""
