"""Damage is never believed: 200 files truncated, flipped, swapped, emptied, deleted, with a digit or a row changed.

Whoever reads the file (a plan, a fit, a study that goes on, a loader of weights or targets) gives the same answer as
before, or names the file and leaves out what rested on it, or refuses.
"""

import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from synthetic_study import World, write_study

import distillaw as dl
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.tokenizer import load_tokenizer, tokenizer_hash
from distillaw.errors import DistillawError
from distillaw.models.fresh import build_model
from distillaw.models.source import locate
from distillaw.models.teacher import load_weights
from distillaw.runs.files import FILES, digests, write_json
from distillaw.runs.places import claim_folder
from distillaw.runs.record import CONCLUSION, read_study
from distillaw.runs.store import RESULT_KEYS, RunFolder, StudyFolder
from distillaw.runs.table import read_table
from distillaw.shapes import shape_for_params
from distillaw.targets.manifest import Scheme
from distillaw.targets.store import TargetStore

FAST, ALL = 24, 200


# --- what is damaged: folders as the package writes them


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study with laws, every file written by the package."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, World(documents=24))
    purposes = {}
    for path in sorted((folder / "runs").iterdir()):
        run, row = RunFolder(path), json.loads((path / "result.json").read_text())
        spec = {key: row[key] for key in ("run_id", "group", "role", "params", "tokens", "seed", "teacher_run")}
        run.write_spec(spec | json.loads((path / "spec.json").read_text()))
        run.write_heldout(run.scores())
        (path / "metrics.jsonl").write_text('{"step": 1, "loss": 5.5}\n{"step": 2, "loss": 5.25}\n')
        run.finish(dict.fromkeys(RESULT_KEYS) | row)
        purposes[path.name, "fresh"] = row["purpose"]
    for name in ("study.json", "tuning.json"):
        write_json(folder / name, json.loads((folder / name).read_text()))
    StudyFolder(folder).write_table(purposes)
    for family in ("supervised", "distillation-reduced"):
        dl.fit(folder, family=family, bootstrap=20).save(folder / "laws" / f"{family}.json")
    write_json(folder / "verdict.json", {"verdict": "distil"})
    write_json(folder / CONCLUSION, {"inputs": "", FILES: digests(folder, (folder / "laws").iterdir())})
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text and its tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    words = np.random.default_rng(0).choice(["two", "and", "three", "are", "five", "of", "a", "kind"], size=(60, 40))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": " ".join(row)}) + "\n" for row in words))
    spec = DataSpec(corpus=str(folder / "text.jsonl"), vocab_size=270, validation_documents=8)
    prepare_data(spec, folder / "data")
    return folder / "data", spec


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory, text):
    """A finished run with its weights and tokenizer."""
    folder = tmp_path_factory.mktemp("runs") / "teacher-1"
    claim_folder(folder)
    build_model(shape_for_params(3e4, vocab=300, context=32), seed=1).save_pretrained(folder)
    load_tokenizer(str(text.tokenizer_folder)).save_pretrained(str(folder))
    run = RunFolder(folder)
    run.write_spec({"run_id": "teacher-1"})
    run.finish(dict.fromkeys(RESULT_KEYS) | {"run_id": "teacher-1", "loss": 5.0})
    return folder


# --- who reads it: an answer as JSON, and the warnings that came with it


def plan_of(folder):
    """`plan --study` for the study's own target."""
    record = read_study(folder)
    if record.target is None:
        raise DistillawError(f"no target: {record.problems}")
    verdict = dl.plan(record.target[0], student_tokens=record.target[1], study=record, with_flips=False)
    whole = verdict.to_json()
    kept = ("verdict", "probability", "margin", "strategies", "gain", "sentence", "equal_compute", "flips_if")
    return {key: whole[key] for key in kept}, verdict.warnings


def table_of(folder):
    """`fit`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        columns = read_table(folder)
    return {name: column.tolist() for name, column in columns.items()}, [str(each.message) for each in said]


def resumed(folder):
    """What a study that goes on knows of its finished runs."""
    study, names = StudyFolder(folder), sorted(path.name for path in (folder / "runs").iterdir())
    runs = {name: study.run(name).result() for name in names}
    again = [f"{name} is trained again" for name, run in runs.items() if run is None]
    return [run and (run["run_id"], run["loss"], run["tokens"]) for run in runs.values()], again


def tokens_of(folder, spec):
    """The text of a study that goes on."""
    store = prepare_data(spec, folder)
    parts = [np.concatenate(store.split(name, context=1).shards) for name in ("teacher", "student")]
    texts = [part.tolist() for part in (*parts, *store.heldout_documents())]
    return [texts, store.data_hash, tokenizer_hash(load_tokenizer(str(store.tokenizer_folder)))], ()


def weights_of(folder):
    """A teacher beside its students."""
    model = load_weights(locate(folder), torch.device("cpu"), None)
    tokenizer = locate(folder).tokenizer()
    state = {name: value.double().sum().item() for name, value in model.state_dict().items()}
    bits = [value.numpy().tobytes().hex() for value in model.state_dict().values()]
    return [state, bits, model.config.to_dict(), tokenizer_hash(tokenizer)], ()


def targets_of(folder, split):
    """Stored targets as training reads them; the manifest's facts as reports do."""
    store = TargetStore.open(folder)
    arrays = store.read_arrays(store.manifest.plan.windows(split))
    facts = store.manifest.teacher_loss, store.manifest.mean_entropy
    return [facts, arrays.ids.tolist(), arrays.weights.tolist(), arrays.entropy.tolist()], ()


# --- the damage


def truncated(draw, data):
    return data[: int(draw.integers(1, len(data)))]


def flipped(draw, data):
    place = int(draw.integers(len(data)))
    return data[:place] + bytes([data[place] ^ 1 << int(draw.integers(8))]) + data[place + 1 :]


def emptied(draw, data):
    return b""


def other_digit(draw, data):
    """Another digit somewhere, still JSON."""
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    for place in draw.permutation(places):
        digit = str((int(chr(data[place])) + int(draw.integers(1, 10))) % 10).encode()
        changed = data[:place] + digit + data[place + 1 :]
        try:
            for line in changed.splitlines() if b"\n{" in data else [changed]:
                json.loads(line)
        except ValueError:
            continue
        return changed
    return data


def doubled_row(draw, data):
    table = pq.read_table(pa.BufferReader(data))
    row = int(draw.integers(len(table)))
    whole = pa.concat_tables([table.slice(0, row + 1), table.slice(row)])
    sink = pa.BufferOutputStream()
    pq.write_table(whole, sink)
    return sink.getvalue().to_pybytes()


def mutations(draw, roots):
    """(reader, folder, file, what, bytes or None for a deletion) without end, each artefact and damage in turn."""
    while True:
        for reader, folder, patterns in roots:
            for pattern in patterns:
                files = sorted(folder.glob(pattern))
                file = files[int(draw.integers(len(files)))]
                data = file.read_bytes()
                kinds = [truncated, flipped, emptied, "deleted"]
                kinds += [other_digit, other_digit] * (file.suffix in (".json", ".jsonl"))
                kinds += [doubled_row] * (file.suffix == ".parquet")
                kinds += ["swapped", "swapped"] * (len(files) > 1)
                kind = kinds[int(draw.integers(len(kinds)))]
                if kind == "deleted":
                    yield reader, folder, file, kind, None
                elif kind == "swapped":
                    others = [other for other in files if other != file and other.read_bytes() != data]
                    if others:
                        yield reader, folder, file, kind, others[int(draw.integers(len(others)))]
                elif data:
                    yield reader, folder, file, kind.__name__, kind(draw, data)


def outcome(reader, folder, file, before):
    """`same`, `named`, `refused`, or what is wrong."""
    try:
        answer, warnings = reader(folder)
    except DistillawError:
        return "refused"
    if json.dumps(answer, sort_keys=True, default=str) == before:
        return "same"
    names = (file.name, file.parent.name)
    return "named" if any(name in line for line in warnings for name in names) else "BELIEVED"


def try_all(count, roots, seed):
    """Damage one file, ask, put it back; how often each outcome came, and what was believed."""
    before = {id(reader): json.dumps(reader(folder)[0], sort_keys=True, default=str) for reader, folder, _ in roots}
    found, believed = Counter(), []
    for _, (reader, folder, file, what, damage) in zip(
        range(count), mutations(np.random.default_rng(seed), roots), strict=False
    ):
        data = file.read_bytes()
        other = (damage, damage.read_bytes()) if isinstance(damage, Path) else None
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(other[1] if other else damage)
        if other:
            other[0].write_bytes(data)
        try:
            how = outcome(reader, folder, file, before[id(reader)])
        finally:
            file.write_bytes(data)
            if other:
                other[0].write_bytes(other[1])
        found[how] += 1
        if how == "BELIEVED":
            believed.append(f"{what} {file.relative_to(folder)} ({reader.__doc__})")
    return found, believed


@pytest.fixture
def roots(study, corpus, teacher_run, build):
    """Who reads which files of which folder."""
    data, spec = corpus
    store, maker, _ = build(scheme=Scheme(samples=8), tokens=150 * 32)

    def text_of(folder):
        """A study that goes on."""
        return tokens_of(folder, spec)

    def signal_of(folder):
        """A student of stored targets."""
        return targets_of(folder, maker.split)

    runs = ["runs/*/result.json", "runs/*/heldout.parquet", "runs/*/spec.json"]
    return [
        (
            plan_of,
            study,
            [
                "study.json",
                "runs.parquet",
                *runs,
                "laws/*.json",
                *runs,
                "runs/*/status.json",
                "runs/*/metrics.jsonl",
                "tuning.json",
                "verdict.json",
                CONCLUSION,
            ],
        ),
        (table_of, study, ["runs.parquet"]),
        (resumed, study, runs),
        (text_of, data, ["manifest.json", "*.bin", "*.npy", "tokenizer/*"]),
        (weights_of, teacher_run, ["*.safetensors", "config.json", "tokenizer.json", "*.safetensors"]),
        (signal_of, store, ["manifest.json", "*.bin"]),
    ]


def test_no_damage_is_believed(roots):
    found, believed = try_all(FAST, roots, seed=1)
    assert not believed and found["refused"] and found["named"], found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_no_damage_is_believed_of_200(roots, seed):
    found, believed = try_all(ALL, roots, seed=seed)
    assert not believed, found
