"""Learn what exponents the loss of language models has: the weak prior of every supervised fit.

    python -m benchmarks.fits.learn ../shared/data/lawruns [MORE...]    # -> src/distillaw/fitting/exponents.json

Every set of every collection (`lawruns.read_folder`) is fitted with hardly any prior. A collection counts once, however
many sets it has: the prior's centre is the mean over collections of the mean over their sets, its variance the mean
over collections of the mean square around it, times k / (k - 1). Of the slopes p, q = gamma alpha, gamma beta, which
fits share far better than alpha and beta, and of ln gamma. Leaving a collection out is taking it off the list.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import distillaw as dl
from benchmarks import ROOT
from benchmarks.fits.lawruns import read_folder
from benchmarks.result_file import typed
from distillaw.runs.files import write_text

LEARNT = ROOT / "src" / "distillaw" / "fitting" / "exponents.json"
HARDLY = {"gamma": (0.5, 0.7), "p": (0.3, 0.5), "q": (0.3, 0.5)}
"""Keeps a fit of few runs from running away; five times as wide as what is learnt."""


def main() -> None:
    """Fit every set, write the exponents of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    found: dict[str, list[dict[str, object]]] = {}
    for folder in parser.parse_args().folders:
        for runs in read_folder(folder):
            table = {"params": runs.N, "tokens": runs.D, "loss": runs.L, "group": runs.group}
            result = dl.fit(table, family="supervised", priors=HARDLY, bootstrap=50, check=False)
            law = result.derived
            values = {"p": law["p"], "q": law["q"], "log_gamma": float(np.log(result.params["gamma"]))}
            if result.status.name != "AT_BOUND":
                found.setdefault(runs.collection, []).append({"set": runs.name, **values})
            print(runs.collection, runs.name, result.status.name, {k: round(v, 3) for k, v in values.items()})
    record = {"command": typed(), "date": time.strftime("%Y-%m-%d"), "collections": found}
    write_text(LEARNT, json.dumps(record, indent=1) + "\n", known=True)


if __name__ == "__main__":
    main()
