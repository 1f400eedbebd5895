"""Settle a choice by paired pilots: what to run next, what it says of the target, and when to stop.

    question.py  what is asked: target, candidates, budget, margin
    prior.py     gains at every scale as laws allow them, before anything is run
    belief.py    the same after pilots: a Gaussian over the gains at the target
    confidence.py  intervals that hold whenever one looks
    design.py    the next stage: the narrowest answer for its share of the budget
    standing.py  where things stand: who is still in, and whether to stop

Pure functions of the question and the runs so far; who runs the pilots is not known here.
"""
