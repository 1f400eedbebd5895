"""Settle a choice by paired pilots: what to run next, what it says of the target, and when to stop.

Pure functions of the question and the runs so far:

    question.py    what is asked: target, candidates, budget, margin; stages, runs and what they cost
    noise.py       how far runs may lie from that: misfit, seeds, held-out text, learning rates
    belief.py      the same after pilots: draws of the losses at the target
    standing.py    where things stand: bounds that hold whenever one stops, who leads, who is out, what it ends with
    design.py      the next stage
    propose.py     the next batch of `study next`: what runs are worth before they are made

The machinery that runs them in a study folder:

    spec.py        the question as typed: a TOML file with flags on top, checked
    setting.py     the same with numbers: text prepared, teachers scored
    pilots.py      a stage as trunks of the study
    loop.py        decide, write down, run, look; and what a dry run says
    verdict.py     the answer for machines and in words
"""
