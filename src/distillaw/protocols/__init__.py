"""Study templates: which runs answer a question, with their controls, at the user's scale, and what they would show.

Reading order: `catalogue.py` (the kinds and their templates), `sheet.py` (what a template fills in), `statement.py`
(what a study costs and would identify). Torch-free.
"""
