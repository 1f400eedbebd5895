"""Runs that others have made, into the run table: tables, W&B, trackio and TensorBoard logs.

    sources.py  what a path holds -> a Log per run with a history (trackers.py), and the rows of a table that are runs
    names.py    which column is what, in which unit and convention, guessed with a reason or as told
    log.py      a run's finished value, or its rows at chosen tokens
    rows.py     both -> rows of the run table, each with its teacher
    table.py    rows as columns -> FOLDER/runs.parquet or TABLE.parquet

Everything here reads files; nothing is trained, fitted or planned.
"""
