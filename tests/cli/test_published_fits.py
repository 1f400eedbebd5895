"""Published fits from the shipped files by the command line alone.

Objectives are the lowest that long searches found, reached or beaten to a relative 1e-6; E to the digits printed there.
"""

import json
from pathlib import Path

import pytest

from in_process import answer as in_process

GEMSTONES = (*"--columns params=params_active_precise,tokens=tokens,loss=final_loss --params-convention total".split(),)
NON_EMBEDDING = (*GEMSTONES, "--vocab", "50304", "--width", "width")


def mlfoundations(dataset, size="N"):
    convention = "total" if size == "N" else "non-embedding"
    return (
        "--columns",
        f"params={size}",
        "--params-convention",
        convention,
        "--where",
        f"dataset={dataset}",
        "--where",
        "val=c4_val*",
    )


def gemstones(name):
    return f"gemstones/{name}.csv"


OPENLM = "mlfoundations-scaling/overtraining_losses.csv"
FIGURE = "kyo-takano-chinchilla/df.csv"
FARSEER = "active-sl-scalebench/farseer_train.csv"
QUICK = [
    # file, options, law, delta, minimum, E
    (gemstones("hot"), NON_EMBEDDING, "chinchilla", "1e-3", 1.7466696231e-3, 2.14638),  # 11.1
    (gemstones("cool_end"), GEMSTONES, "chinchilla", "1e-4", 2.0477906755e-4, 2.07986),  # the grid missed it
    (FIGURE, (), "chinchilla", "1e-3", 8.400931199574e-4, 1.78389),  # 11.2
    (OPENLM, mlfoundations("rpj"), "chinchilla", "1e-3", 4.2651082715e-4, 1.7202),  # 11.3
    (gemstones("hot"), GEMSTONES, "supervised", "1e-3", 1.45603325e-3, 1.7492),  # 11.5
]
REST = [
    (gemstones("hot"), GEMSTONES, "chinchilla", "1e-3", 1.9816128088e-3, 2.14321),
    (gemstones("hot_100b+"), GEMSTONES, "chinchilla", "1e-3", 6.5925341645e-3, 1.95083),
    (gemstones("cool_begin"), GEMSTONES, "chinchilla", "1e-3", 1.9515324672e-3, 2.17563),
    (gemstones("cool_end"), GEMSTONES, "chinchilla", "1e-3", 1.9640864312e-3, 2.07478),
    (gemstones("lr_ablation_hot"), GEMSTONES, "chinchilla", "1e-3", 1.9728623965e-3, 2.20597),
    (gemstones("hot_sampled_like_chinchilla"), GEMSTONES, "chinchilla", "1e-3", 2.1737880890e-4, 2.03520),
    (gemstones("hot_100b+"), NON_EMBEDDING, "chinchilla", "1e-3", 5.3939491254e-3, 1.94744),
    (gemstones("hot"), GEMSTONES, "chinchilla", "1e-4", 2.0750515560e-4, 2.14943),
    (gemstones("lr_ablation_hot"), GEMSTONES, "chinchilla", "1e-4", 2.0584208245e-4, 2.21063),
    (gemstones("cool_end"), NON_EMBEDDING, "chinchilla", "1e-4", 1.7971930867e-4, 2.08275),
    (FIGURE, (), "chinchilla", "1e-4", 9.379363135898e-5, 1.78800),
    (FIGURE, (), "chinchilla", "1e-2", 3.303893302784e-3, 1.79798),
    (OPENLM, mlfoundations("c4_original"), "chinchilla", "1e-3", 5.2995413045e-4, 1.6200),
    (OPENLM, mlfoundations("rw_original"), "chinchilla", "1e-3", 4.7572550163e-4, 1.7013),
    (OPENLM, mlfoundations("c4_original", "N_no_embed"), "chinchilla", "1e-3", 5.0411057951e-4, 1.5959),
    (OPENLM, mlfoundations("rpj", "N_no_embed"), "chinchilla", "1e-3", 4.1129772075e-4, 1.6085),
    (OPENLM, mlfoundations("rw_original", "N_no_embed"), "chinchilla", "1e-3", 4.5929501355e-4, 1.6442),
    (FARSEER, ("--unit", "bits-per-character"), "chinchilla", "1e-3", 2.4884108113e-3, 0.3687),  # 11.4
    (gemstones("hot_100b+"), GEMSTONES, "supervised", "1e-3", 5.41416326e-3, 1.6377),
    (FIGURE, (), "supervised", "1e-3", 8.05798077e-4, 1.7512),
    (FARSEER, ("--unit", "bits-per-character"), "supervised", "1e-3", 5.82571519e-4, 0.2655),
    (OPENLM, mlfoundations("c4_original"), "supervised", "1e-3", 3.78448112e-4, 1.4024),
    (OPENLM, mlfoundations("rpj"), "supervised", "1e-3", 3.54297959e-4, 1.6190),
    (OPENLM, mlfoundations("rw_original"), "supervised", "1e-3", 3.56573642e-4, 1.7038),
]


def reproduce(law_runs, file, options, law, delta, minimum, E):
    command = [
        "fit",
        str(law_runs / file),
        "--law",
        law,
        *options,
        *f"--group none --delta {delta} --bootstrap 0 --json".split(),
    ]
    answer = json.loads(in_process(*command, code=0).stdout)
    assert answer["objective"] <= minimum * (1 + 1e-6)
    assert answer["params"]["E"] == pytest.approx(E, abs=6e-5)
    assert answer["solver_disagreement"] < 1e-6


@pytest.mark.parametrize("row", QUICK, ids=lambda r: f"{Path(r[0]).stem} {r[2]} {r[3]}")
def test_one_of_each_table(law_runs, row):
    reproduce(law_runs, *row)


@pytest.mark.slow
@pytest.mark.parametrize("row", REST, ids=lambda r: f"{Path(r[0]).stem} {r[2]} {r[3]} {r[4]}")
def test_all_the_others(law_runs, row):
    reproduce(law_runs, *row)
