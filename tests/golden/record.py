"""What the command line says, call by call: recorded before a rebuild, compared after it.

    python tests/golden/record.py           writes answers.jsonl.xz anew; what changes on purpose is in CHANGELOG.md
    python tests/golden/record.py plan gap  only the calls that begin so; the others stay as they are

One line of the file is one call of invocations.txt, with `--json` where the command knows it: its exit code, what it
printed, of a refusal what stderr says, and on what arithmetic.
"""

import atexit
import contextlib
import functools
import json
import lzma
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ANSWERS = HERE / "answers.jsonl.xz"
TABLES = ROOT / "src/distillaw/studies"
_PASSES = {"seconds", "created", "date", "versions"}
"""Keys whose values no two calls have in common."""
_NO_JSON = {"--help", "--version"}


def invocations() -> list[str]:
    """The calls, as they are written down."""
    lines = (HERE / "invocations.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@functools.cache
def places() -> dict[str, Path]:
    """What stands in braces in a call."""
    from in_process import answer

    folder = Path(tempfile.mkdtemp(prefix="golden-"))
    atexit.register(shutil.rmtree, folder)
    answer("study", "import", TABLES / "open_runs.parquet", "--out", folder / "study", "--quiet")
    return {
        "open": TABLES / "open_runs.parquet",
        "pocket": TABLES / "pocket_runs.parquet",
        "studies": ROOT / "studies",
        "study": folder / "study",
    }


@functools.cache
def arithmetic() -> str:
    """What decides how sums are rounded: the processor, the instructions that numpy uses on it, numpy itself."""
    import numpy as np
    import small

    used = np.show_config("dicts")["SIMD Extensions"]["found"]  # type: ignore[index]
    return f"{small.processor()}: {' '.join(used)}; numpy {np.__version__}"


def ask(line: str) -> dict[str, object]:
    """What the command line answers to a call now."""
    from in_process import answer

    words = shlex.split(line.format(**places()))
    plain = bool(_NO_JSON & set(words))
    with (
        tempfile.TemporaryDirectory(prefix="golden-") as empty,  # some calls write
        contextlib.chdir(empty),
        mock.patch("distillaw.sweep.cost.slowness", lambda: 1.0),  # estimates of no particular machine
    ):
        said = answer(*words, *([] if plain else ["--json"]))
    record: dict[str, object] = {"call": line, "code": said.returncode, "arithmetic": arithmetic()}
    if said.returncode:
        record["error"] = _anywhere(said.stderr)
    try:
        record["answer"] = _lasting(json.loads(_anywhere(said.stdout)))
    except ValueError:
        record["text"] = _anywhere(said.stdout)
    return record


def recorded() -> Iterator[dict[str, object]]:
    """What was recorded, in the order of the calls."""
    with lzma.open(ANSWERS, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _anywhere(text: str) -> str:
    """The text without what belongs to this checkout."""
    return re.sub(r"/tmp/\S*?/", "TMP/", text.replace(str(ROOT), "ROOT"))


def _lasting(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in _PASSES}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Record every call, or those that begin with one of the words given."""
    sys.path.insert(0, str(HERE.parent))
    words = tuple(sys.argv[1:]) or ("",)
    kept = {one["call"]: one for one in recorded() if not str(one["call"]).startswith(words)}
    with lzma.open(ANSWERS, "wt", encoding="utf-8") as file:
        for line in invocations():
            record = kept.get(line) or ask(line)
            print(
                record["code"], line, (str(record.get("error", "")).strip().splitlines() or [""])[-1][:100], flush=True
            )
            file.write(json.dumps(record, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
