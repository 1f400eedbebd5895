"""Hostile files of every kind that commands read: a good one, changed in one place, or something else under its name.

`hostile_files` writes them and gives the command lines that read them; the same for a seed.
"""

import json
import math
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tiny_images import tiny_data, write_npz

from hostile.place import CONFIG, IMAGES, QUESTION, SETTLE, STUDY, WORLD, csv_of, run_toml, table_of_runs

HERE = Path(__file__).parent
LAW = "--student-params 300M --student-tokens 6B"
OTHER_THINGS = {
    "empty": b"",
    "zeros": bytes(5000),
    "latin1": "caf\xe9 = 1".encode("latin1"),
    "utf16": "x = 1".encode("utf-16"),
    "nested": b"[" * 200_000,
    "braces": b'{"a":' * 100_000,
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "null": b"null",
    "toml-digits": b"a = " + b"9" * 5000,
    "toml-nested": b"a = " + b"[" * 5000,
    "number": b"-1e999",
    "list": b"[]",
    "object": b"{}",
    "bom": b"\xef\xbb\xbf{}",
    "noise": random.Random(0).randbytes(3000),
    "newlines": b"\n" * 1000,
    "surrogate": b'{"a": "\\ud800"}',
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
    "header": b"params,tokens,loss\n",
    "ragged": b"params,tokens,loss\n1,2\n",
    "quote": b'params,tokens,loss\n"1,2,3\n4,5,6',
    "nul": b"params,tokens,loss\n1,\x002,3\n",
    "field": b"params,tokens,loss\n" + b"1" * 200_000 + b",2,3\n",
    "columns": b",".join(b"c%d" % i for i in range(200_000)) + b"\n",
    "twice": b"params,params,loss\n1,2,3\n",
    "one-line": b"x" * 1_000_000,
}
"""What may lie under any name."""

VALUES = (
    None,
    -1,
    0,
    1,
    True,
    1e308,
    -1e308,
    5e-324,
    math.nan,
    math.inf,
    "",
    "x",
    "1e400",
    "\ud800",
    "../../x",
    [],
    {},
    [[]],
    ["x"],
    [1, 2, 3],
    {"a": 1},
    10**30,
    2**63,
    -(10**20),
    0.5,
    100_000_000,
    "9" * 5000,
    [None],
    [1e-3] * 20_000,
)
TOML_VALUES = (
    *'-1 0 1 1e308 -1e308 5e-324 nan inf "" "x" "1e400" [] {} true [[]] ["x"]'.split(),
    "9" * 5000,
    *'100_000_000 10000000000000 "../../x" 1979-05-27'.split(),
    '"\\u0000"',
    *'"1e30" "-5B"'.split(),
    "[" + "1e-3, " * 20_000 + "]",
    "[" * 300 + "]" * 300,
    *'0.5 "1B"'.split(),
    '["1B", "2B"]',
    *'["0.01M"]'.split(),
)


def hostile_files(folder: Path, seed: int = 0, *, with_models: bool = True) -> Iterator[tuple[str, list[str]]]:
    """(kind of file, command line) of each, in `folder`, which `place.lay_out` has filled."""
    chance = random.Random(seed)
    out = folder / "hostile"
    out.mkdir()
    yield from _tomls(out, chance)
    yield from _jsons(folder, out, chance)
    yield from _tables(out, chance)
    yield from _logs(out, chance)
    yield from _texts(out)
    yield from _images(out, chance)
    yield from _studies(folder, out, chance)
    if with_models:
        yield from _models(folder, out, chance)


def _as_other(
    out: Path, name: str, commands: tuple[str, ...], kinds: tuple[str, ...] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Things of another kind under this name."""
    stem, _, suffix = name.partition(".")
    for i, (kind, raw) in enumerate(OTHER_THINGS.items()):
        if kinds and kind not in kinds:
            continue
        file = out / f"{stem}-{kind}.{suffix}"
        file.write_bytes(raw)
        yield stem, _line(commands[i % len(commands)], file)


def _line(command: str, file: Path) -> list[str]:
    return [word.replace("FILE", str(file)) for word in command.split()]


def _tomls(out: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    kinds = {
        "study.toml": (STUDY, "study show FILE", 60),
        "settle.toml": (SETTLE, "settle FILE --dry-run --json", 30),
        "world.toml": (WORLD, "worlds show FILE --documents 8", 16),
        "run.toml": (run_toml(), "train FILE --out never", 30),
        "branch.toml": (run_toml(), "branch FILE --out never --dry-run", 8),
        "images.toml": (IMAGES, "large-batch run FILE --data missing.npz --out never --dry-run", 24),
        "question.toml": (QUESTION, "plan --question FILE --json", 20),
    }
    for name, (text, command, count) in kinds.items():
        yield from _as_other(
            out, name, (command,), ("empty", "latin1", "toml-digits", "toml-nested", "nested", "zeros", "list")
        )
        lines = [i for i, line in enumerate(text.split("\n")) if "=" in line]
        for number in range(count):
            changed = text.split("\n")
            i = chance.choice(lines)
            key = changed[i].split("=")[0]
            changed[i] = f"{key}= {chance.choice(TOML_VALUES)}" if chance.random() < 0.9 else ""
            file = out / f"{number}-{name}"
            file.write_text("\n".join(changed), encoding="utf-8")
            yield name, _line(command, file)


def changed_json(value: object, chance: random.Random) -> object:
    """A copy with one value, anywhere in it, replaced or left out."""
    value = json.loads(json.dumps(value))
    here, path = value, []
    while isinstance(here, dict | list) and here and (not path or chance.random() < 0.85):
        key = chance.choice(sorted(here)) if isinstance(here, dict) else chance.randrange(len(here))
        path.append((here, key))
        here = here[key]
    holder, key = path[-1]
    if chance.random() < 0.12:
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    return value


def _write_json(file: Path, value: object) -> Path:
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def _jsons(folder: Path, out: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    law = json.loads((folder / "law.json").read_text())
    kinds = {
        "law.json": (
            law,
            (
                f"predict --law FILE {LAW} --json",
                "laws show FILE --json",
                "plan --student 300M --tokens 6B --law FILE",
                "gap --student 1B --law FILE",
            ),
            40,
        ),
        "config.json": (
            CONFIG,
            ("cost --tokens 1B --config FILE --json", "cost --tokens 1B --params 1B --teacher-config FILE"),
            40,
        ),
    }
    for name, (good, commands, count) in kinds.items():
        yield from _as_other(out, name, commands)
        for number in range(count):
            file = _write_json(out / f"{number}-{name}", changed_json(good, chance))
            yield name, _line(commands[number % len(commands)], file)
    deep = _write_json(out / "layers.json", {**CONFIG, "num_hidden_layers": 10**9, "layer_types": ["full_attention"]})
    yield "config.json", _line(kinds["config.json"][1][0], deep)


FITS = (
    "fit FILE --law supervised --bootstrap 0 --json",
    "study import FILE --out never --dry-run --params-convention non-embedding",
    "study next FILE --budget 1e20 --bootstrap 0",
    "pareto FILE",
    "verify freeze FILE --cells params=1M,tokens=1M",
)


def _tables(out: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    for name in ("table.csv", "table.tsv", "table.jsonl", "table.parquet"):
        yield from _as_other(out, name, FITS)
    rows = csv_of(table_of_runs()).strip().split("\n")
    cells = (
        "",
        "nan",
        "-1",
        "0",
        "1e308",
        "-1e308",
        "inf",
        "x",
        "1e400",
        "5e-324",
        "=1+1",
        "9" * 5000,
        '"',
        "1,2",
        "\u0661",
        "0x1",
    )
    for number, cell in enumerate(cells):
        changed = [row.split(",") for row in rows]
        changed[chance.randrange(1, len(rows))][chance.randrange(3)] = cell
        file = out / f"{number}-cell.csv"
        file.write_text("\n".join(map(",".join, changed)), encoding="utf-8")
        for command in FITS[:3]:
            yield "table.csv", _line(command, file)
    good = {name: values.tolist() for name, values in table_of_runs().items()}
    n = len(good["loss"])
    bad_text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    columns: dict[str, object] = {
        "nested": [{"a": [1, None]}] * n,
        "binary": [b"\xff"] * n,
        "list": [[1.0]] * n,
        "null": [None] * n,
        "bool": [True] * n,
        "time": pa.array([10**18] * n, pa.timestamp("ns")),
        "far": pa.array([2**62] * n, pa.timestamp("us")),
        "utf8": pa.concat_arrays([bad_text] * n),
        "decimal": pa.array([1] * n, pa.decimal128(30, 2)),
        "inf": [math.inf] * n,
        "big": pa.array([2**64 - 1] * n, pa.uint64()),
        "duration": pa.array([2**62] * n, pa.duration("us")),
        "dictionary": pa.array(["a"] * n).dictionary_encode(),
    }
    for i, (name, column) in enumerate(columns.items()):
        for place in ("loss", "run", "group"):
            file = out / f"{name}-{place}.parquet"
            pq.write_table(pa.table({**good, place: column}), file)
            yield "table.parquet", _line(FITS[(i + len(place)) % len(FITS)], file)
    twice = out / "twice.parquet"
    pq.write_table(pa.table([pa.array([1.0])] * 3, names=["params", "params", "loss"]), twice)
    wide = out / "wide.parquet"
    pq.write_table(pa.table([pa.array([1.0])] * 20_000, names=[f"c{i}" for i in range(20_000)]), wide)
    for file in (twice, wide):
        yield "table.parquet", _line(FITS[0], file)
    yield from _damaged(out, "whole.parquet", _parquet(out, good), FITS[:2], chance, 16)


def _parquet(out: Path, columns: dict) -> bytes:
    pq.write_table(pa.table(columns), out / "good.parquet")
    return (out / "good.parquet").read_bytes()


def _damaged(
    out: Path,
    name: str,
    good: bytes,
    commands: tuple[str, ...],
    chance: random.Random,
    count: int,
    place: Callable[[Path], Path] = lambda file: file,
) -> Iterator[tuple[str, list[str]]]:
    """The bytes cut short, with some of them changed, or with zeros in the middle."""
    for number in range(count):
        raw = bytearray(good)
        way = number % 3
        if way == 0:
            raw = raw[: chance.randrange(len(raw))]
        elif way == 1:
            for _ in range(chance.choice((1, 1, 8))):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
        else:
            start = chance.randrange(len(raw))
            raw[start : start + 64] = bytes(len(raw[start : start + 64]))
        file = out / f"{number}-{name}"
        file.write_bytes(raw)
        yield name, _line(commands[number % len(commands)], place(file))


IMPORT = (
    "study import FILE --out never --dry-run --params-convention non-embedding --set params=300M "
    "--columns loss=eval/loss,tokens=seen"
)


def _logs(out: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    """W&B, trackio, TensorBoard."""
    wandb = (HERE.parent / "runs" / "importing" / "run-pocket.wandb").read_bytes()
    yield from _damaged(out, "run-x.wandb", wandb, (IMPORT,), chance, 20)
    yield from _as_other(out, "run-y.wandb", (IMPORT,), ("empty", "zeros", "noise", "nested", "html"))
    yield from _wandb_records(out)
    yield from _as_other(out, "project.db", (IMPORT,), ("empty", "zeros", "noise", "html"))
    for name, raw in _trackio_bases(out).items():
        yield "trackio", _line(IMPORT, raw)
        assert name
    good = (out / "trackio-good.db").read_bytes()
    yield from _damaged(out, "damaged.db", good, (IMPORT,), chance, 15)
    yield from _as_other(out, "events.out.tfevents.1", (IMPORT,), ("empty", "zeros", "noise", "nested", "html"))
    yield from _damaged(out, "events.out.tfevents.2", _events(out), (IMPORT,), chance, 12, _in_a_folder)


def _in_a_folder(file: Path) -> Path:
    folder = file.with_name(f"{file.name}-run")
    folder.mkdir()
    shutil.move(file, folder / file.name)
    return folder


def _events(out: Path) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(out / "events"))
    for step in range(20):
        values = [
            Summary.Value(tag="eval/loss", simple_value=3 - step / 20),
            Summary.Value(tag="seen", simple_value=1e6 * step),
        ]
        writer.add_event(Event(step=step, wall_time=1e9 + step, summary=Summary(value=values)))
    writer.close()
    return next((out / "events").iterdir()).read_bytes()


def _wandb_records(out: Path) -> Iterator[tuple[str, list[str]]]:
    """Logs whose frame is sound and whose records are not what they should be."""
    import zlib

    from distillaw.runs.importing.trackers import _record_class

    record = _record_class()
    values = ("NaN", "1e999", "null", "[" * 3000, "9" * 5000, '"x"', "{}", "-1", '"\\ud800"', "")
    for number, value in enumerate(values):
        records = []
        for step in range(3):
            message = record()
            for key in ("eval/loss", "seen"):
                message.history.item.add(key=key, value_json=value if step == 1 else str(3.0 + step))
            message.history.item.add(key="_step", value_json=value if number % 2 else str(step))
            records.append(message.SerializeToString())
        named = record()
        named.run.run_id = "r"
        config = named.run.config.update.add(key="model")
        config.value_json = value
        done = record()
        done.exit.exit_code = 0
        parts = [named.SerializeToString(), *records, done.SerializeToString(), b"\xff\xff\xff\xff"[: number % 3]]
        raw = b":W&B\xe1\xbe\x00"
        for body in parts:
            raw += struct.pack("<IHB", zlib.crc32(body, zlib.crc32(b"\x01")), len(body), 1) + body
        file = out / f"run-record{number}.wandb"
        file.write_bytes(raw)
        yield "wandb", _line(IMPORT, file)


def _trackio_bases(out: Path) -> dict[str, Path]:
    tables = (
        "CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp, run_name TEXT, step INTEGER, metrics TEXT)",
        "CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT, created_at TEXT)",
    )
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    row = "INSERT INTO metrics (timestamp, run_name, step, metrics) VALUES ('t', {name}, {step}, {metrics})"
    good = [
        row.format(name="'a'", step=s, metrics=f"""'{{"eval/loss": {3 - s / 10}, "seen": {s}e6}}'""") for s in (1, 2)
    ]
    changes = {
        "good": [*tables, *good],
        "view": [
            f"CREATE VIEW metrics AS {endless} SELECT i AS id, 'a' AS run_name, i AS step, '{{}}' AS metrics FROM n",
            tables[1],
        ],
        "configs-view": [tables[0], *good, f"CREATE VIEW configs AS {endless} SELECT i AS id, 'a' AS run_name FROM n"],
        "no-configs": [tables[0], *good],
        "no-metrics": [tables[1]],
        "no-rows": [*tables],
        "no-columns": ["CREATE TABLE metrics (id INTEGER)", "INSERT INTO metrics VALUES (1)", tables[1]],
        "bad-json": [*tables, row.format(name="'a'", step=1, metrics="'{'")],
        "nested": [*tables, row.format(name="'a'", step=1, metrics=f"""'{'{"a":' * 5000}'""")],
        "blob": [*tables, row.format(name="'a'", step=1, metrics="x'ff00ff'")],
        "list": [*tables, row.format(name="'a'", step=1, metrics="'[1]'")],
        "null-step": [*tables, row.format(name="'a'", step="NULL", metrics="'{}'")],
        "text-step": [*tables, row.format(name="'a'", step="'x'", metrics="'{}'")],
        "null-name": [*tables, row.format(name="NULL", step="1", metrics="NULL")],
        "text": [*tables, row.format(name="CAST(x'ff' AS TEXT)", step="1", metrics="'{}'")],
    }
    bases = {}
    for name, statements in changes.items():
        bases[name] = out / f"trackio-{name}.db"
        with sqlite3.connect(bases[name]) as base:
            for statement in statements:
                base.execute(statement)
        base.close()
    return bases


def _texts(out: Path) -> Iterator[tuple[str, list[str]]]:
    """Corpora, conversations, questions: read where no model is needed."""
    for name in ("corpus.txt", "corpus.jsonl", "corpus.parquet"):
        yield from _as_other(
            out,
            name,
            ("study run study.toml --dry-run --corpus FILE --out never",),
            ("empty", "zeros", "latin1", "nested", "digits", "noise", "newlines"),
        )


def _images(out: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    command = ("large-batch run images.toml --data FILE --out never --dry-run",)
    npz = write_npz(out / "good.npz", tiny_data())
    yield from _damaged(out, "images.npz", npz.read_bytes(), command, chance, 15)
    yield from _as_other(out, "other.npz", command, ("empty", "zeros", "noise", "html", "nested"))
    arrays = dict(np.load(npz))
    for name, array in {
        "text": np.array(["a"]),
        "object": np.array([None]),
        "nan": np.full(3, np.nan),
        "shape": np.zeros((0, 6, 6)),
        "scalar": np.array(7),
        "big": np.zeros((1, 1, 1, 1, 1)),
    }.items():
        for key in ("x_train", "y_train"):
            np.savez(out / f"{name}-{key}.npz", **{**arrays, key: array})
            yield "images.npz", _line(command[0], out / f"{name}-{key}.npz")
    for kind in ("empty", "noise", "zeros", "html"):
        for name in (
            "train-images-idx3-ubyte",
            "train-images-idx3-ubyte.gz",
            "data_batch_1",
            "data_batch_1.bin",
            "train/a/1.png",
        ):
            folder = out / f"images-{kind}-{name.replace('/', '-')}"
            for part in ("train/a", "test/a"):
                (folder / part).mkdir(parents=True)
            for file in (name, name.replace("train", "test").replace("data_batch_1", "test_batch")):
                (folder / file).write_bytes(OTHER_THINGS[kind])
            yield "images", _line(command[0], folder)


def _studies(folder: Path, out: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    """A study with one damaged file."""
    commands = (
        "plan --student 1M --tokens 10M --study FILE --json",
        "study check FILE",
        "study status FILE --json",
        "fit FILE --law supervised --bootstrap 0",
        "study import FILE --out never --dry-run",
        "study next FILE --budget 1e18 --bootstrap 0",
        "verify freeze FILE --cells params=1M,tokens=1M",
    )
    runs = sorted((folder / "study" / "runs").iterdir())
    number = 0

    def copy() -> Path:
        nonlocal number
        number += 1
        return Path(shutil.copytree(folder / "study", out / f"study-{number}"))

    def line(study: Path) -> tuple[str, list[str]]:
        return "study", _line(commands[number % len(commands)], study)

    for _ in range(35):
        study = copy()
        file = study / "runs" / chance.choice(runs).name / "result.json"
        _write_json(file, changed_json(json.loads(file.read_text()), chance))
        if number % 2:
            (study / "runs.parquet").unlink(missing_ok=True)
        yield line(study)
    for _ in range(14):
        study = copy()
        file = study / "study.json"
        _write_json(file, changed_json(json.loads(file.read_text()), chance))
        yield line(study)
    for kind in ("empty", "zeros", "nested", "digits", "list", "latin1", "noise"):
        for name in (
            "study.json",
            "runs.parquet",
            "RUN/result.json",
            "RUN/heldout.parquet",
            "RUN/spec.json",
            "RUN/status.json",
        ):
            study = copy()
            (study / name.replace("RUN", f"runs/{runs[number % len(runs)].name}")).write_bytes(OTHER_THINGS[kind])
            yield line(study)


def _models(folder: Path, out: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    """A model with one damaged file."""
    from distillaw.shapes import Shape
    from small_teacher import write_teacher

    shape = Shape(layers=2, width=32, ffn=64, heads=2, kv_heads=2, head_dim=16, vocab=300, context=64)
    good = write_teacher(folder / "model", shape, batches=1)
    chats = [[{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]] * 8
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    commands = (
        "scout FILE --text text.txt --max-bytes 2k --json",
        "prune FILE --out never --keep 0.5 --importance uniform --dry-run",
        "instruct sft FILE --data chats.jsonl --template minichat --out never --dry-run",
        "vocabulary trim FILE --text text.txt --out never --dry-run",
        "upcycle FILE --out never --dry-run",
        "evaluate FILE --text text.txt --dry-run",
    )
    templates = {
        "endless": "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "broken": "{% for %}",
        "code": "{{ cycler.__init__.__globals__ }}",
        "raises": "{{ raise_exception('no') }}",
        "deep": "{{ " + "(" * 3000 + " }}",
        "division": "{{ 1 / 0 }}",
        "power": "{{ 9 ** 9 ** 9 }}",
        "long": "{{ 'x' * 10000000000 }}",
        "unknown": "{{ a.b.c.d }}",
    }
    for name, template in templates.items():
        model = Path(shutil.copytree(good, out / f"template-{name}"))
        file = out / f"{name}.jinja"
        file.write_text(template)
        yield "template", _line(commands[2].replace("minichat", str(file)), good)
        (model / "chat_template.jinja").write_text(template)
        yield "template", [w for w in _line(commands[2], model) if w not in ("--template", "minichat")]
    (out / "endless.jsonl").write_text('{"messages": ' + "[" * 100_000 + "\n")
    for kind in ("empty", "nested", "digits", "list", "latin1", "noise"):
        file = out / f"chats-{kind}.jsonl"
        file.write_bytes(OTHER_THINGS[kind])
        yield ("chats", _line(commands[2].replace("chats.jsonl", "FILE").replace("sft FILE", f"sft {good}"), file))
    number = 0
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        raw = (good / name).read_bytes()
        for way in range(9 if name != "generation_config.json" else 3):
            number += 1
            model = Path(shutil.copytree(good, out / f"model-{number}"))
            kinds = list(OTHER_THINGS.values())
            if way % 3 == 0:
                (model / name).write_bytes(kinds[chance.randrange(20)])
            elif way % 3 == 1 and name.endswith(".json"):
                _write_json(model / name, changed_json(json.loads(raw), chance))
            else:
                (model / name).write_bytes(_hurt(raw, chance))
            yield f"model {name}", _line(commands[number % len(commands)], model)


def _hurt(raw: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return raw[: chance.randrange(len(raw))]
    at = chance.randrange(len(raw))
    return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
