"""One settled decision against the truth: was the stop false, did the bounds hold at every look, what did it cost."""

from distillaw.settling.question import NONE


def judge(losses, settlement, *, noise=0.0):
    """One row of scores.

    Args:
        losses: true losses at the target by candidate and `NONE`, nats/token.
        settlement: what was said.
        noise: by how much a true difference may be off (where truths are measured), nats/token.
    """
    question = settlement.question
    row = {
        "alone": losses[NONE],
        "margin": question.margin,
        "gain": losses[NONE] - min_taught(losses),
        "refused": settlement.refused,
        "moved": settlement.moved,
        "seconds": settlement.seconds,
        "stages": len(settlement.stages),
        "runs": len(settlement.runs),
        "spent": settlement.spent / question.target_flops,
    }
    if not settlement.looks:
        return row | {
            "verdict": "refused",
            "decided": False,
            "settled": False,
            "false": False,
            "false_beyond_noise": False,
        }
    end, last = settlement.end, settlement.looks[-1]
    bound = max(end.bound, question.margin)
    return row | {
        "verdict": end.verdict,
        "chosen": end.choice,
        "best": best(losses),
        "why": end.sentence,
        "decided": end.verdict != "too-close" or end.bound <= question.margin,
        "settled": last.verdict is not None,
        "bound": end.bound,
        "regret": regret(losses, end.choice),
        "false": is_false(end.verdict, losses, end.choice, bound, 0.0),
        "false_beyond_noise": is_false(end.verdict, losses, end.choice, bound, noise),
        "surprises": [check.surprise for check in last.predicted],
        "looks": [look_row(look, losses) for look in settlement.looks],
    }


def min_taught(losses):
    """The lowest loss with a teacher."""
    return min(loss for name, loss in losses.items() if name != NONE)


def best(losses):
    """The best choice."""
    return min(losses, key=losses.__getitem__)


def regret(losses, chosen):
    """What a choice loses against the best, nats/token."""
    return losses[chosen] - min(losses.values())


def is_false(verdict, losses, chosen, bound, noise):
    """The choice loses more than was said, or a teacher was advised that does no good."""
    useless = verdict == "distil" and losses[NONE] - losses[chosen] <= -noise
    return bool(useless or regret(losses, chosen) > bound + noise)


def look_row(look, losses):
    """Every interval and probability of one look beside its truth."""
    gains = {
        name: {
            "lower": g.lower,
            "mean": g.mean,
            "upper": g.upper,
            "truth": losses[NONE] - losses[name],
            "in": g.lower <= losses[NONE] - losses[name] <= g.upper,
            "out": name in look.dropped,
        }
        for name, g in look.gains.items()
    }
    held = {name: i.lower <= losses[name] <= i.upper for name, i in look.losses.items()}
    return {
        "gains": gains,
        "losses_in": held,
        "leader": look.leader,
        "regret": look.regret,
        "bound_held": regret(losses, look.leader) <= look.regret,
        "verdict": look.verdict,
        "probability": {name: [p, name == best(losses)] for name, p in look.probability.items()},
    }
