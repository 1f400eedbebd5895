"""Controls: what makes the numbers of a small study mean something, checked before a law is fitted.

Reading order: `control.py` (what a control is), `study_runs.py` (which runs answer it), one file per question, then
`api.py` (all of them). Pure functions of a study record; torch-free.
"""
