"""Settle a choice by paired pilots: what to run next, what it says of the target, and when to stop.

    question.py    what is asked: target, candidates, budget, margin; stages and runs
    prior.py       losses at every scale as laws allow them, before anything is run
    noise.py       how far runs may lie from that: misfit, seeds, held-out text
    belief.py      the same after pilots: draws of the losses at the target
    confidence.py  bounds that hold at every look
    contrasts.py   how much one choice can lose against another
    selfcheck.py   every stage predicted before it runs; surprises widen what is said
    standing.py    where things stand: who leads, who is out, whether it is settled
    design.py      the next stage
    conclusion.py  what it ends with

Pure functions of the question and the runs so far; who runs the pilots is not known here.
"""
