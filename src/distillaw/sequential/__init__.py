"""Which runs next, for a decision: `study next` on a study, its folder or a table of anybody's runs.

    question.py    the source as a question of settling/, with the runs there are
    answer.py      what is known now, the batch that is proposed, and the file that runs it

What a batch should be worth is settling/propose.py's; runs that sharpen one prediction of a law are fitting's.
"""
