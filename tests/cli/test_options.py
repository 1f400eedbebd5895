"""Options: one answer by any of its names, none that silently does nothing, nonsense refused at once."""

import json

import pytest

from in_process import answer

ASKED = "--student 1B --tokens 20B"


def said(line, code=0):
    done = answer(*line.split())
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize(
    ("second", "first"),
    [
        ("cost --params 1B --tokens 20B", f"cost {ASKED}"),
        (
            "predict --law besiroglu2024 --student-params 1B --student-tokens 20B",
            f"predict --law besiroglu2024 {ASKED}",
        ),
        (f"cost {ASKED} --hardware h200", f"cost {ASKED} --device h200"),
        (f"cost {ASKED} --teacher-params 8B --students 3", f"cost {ASKED} --teacher-params 8B --students-served 3"),
        ("regime --params 1B --tokens 20B", f"regime {ASKED}"),
        ("plan --student 1B --dollars 2000 --hardware h200", "plan --student 1B --money 2000 --device h200"),
    ],
)
def test_a_second_name_gives_the_same_answer(second, first):
    assert json.loads(said(f"{second} --json").stdout) == json.loads(said(f"{first} --json").stdout)


@pytest.mark.parametrize("command", ["settle", "study next runs.csv --budget 1e20", "prune out --out x --keep 0.4"])
def test_the_student_is_named_alike_everywhere(command):
    """Refused for what is missing, not for the names of the options."""
    asked = "--student 3M" if command.startswith("prune") else "--student 3M --tokens 60M"
    for words in (asked, asked.replace("student", "student-params").replace("--tokens", "--student-tokens")):
        done = answer(*command.split(), *words.split())
        assert done.returncode in (1, 2) and "unknown option" not in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1, "an error stays one line"


def test_a_real_model_is_named_alike_everywhere():
    name = "--teacher llama-3.1-8b"
    planned = json.loads(said(f"plan {ASKED} {name} --json").stdout)
    (teacher,) = {s["teacher"]["name"]: s["teacher"] for s in planned["strategies"] if s["teacher"]}.values()
    numbers = f"--teacher-params {teacher['params']} --teacher-tokens {teacher['tokens']}"

    predicted = json.loads(said(f"predict --law surrogate-s2 {ASKED} {name} --json").stdout)
    by_numbers = json.loads(said(f"predict --law surrogate-s2 {ASKED} {numbers} --json").stdout)
    assert predicted["student_loss"] == by_numbers["student_loss"]
    assert any("scout" in warning for warning in predicted["warnings"])

    counted = json.loads(said(f"cost {ASKED} {name} --json").stdout)
    own = next(s for s in planned["strategies"] if s["teacher"])["compute"]["teacher_logits"]
    assert counted["flops"]["teacher_logits"] == pytest.approx(own, rel=0.3)  # the model's own shape, not its family's

    gap = json.loads(said(f"gap {ASKED} {name} --json").stdout)
    opinion = next(o for o in gap["opinions"] if o["law"] == "surrogate-s2")
    assert gap["teacher"] == "Llama-3.1-8B"
    assert opinion["teacher_at_hand_loss"] == pytest.approx(predicted["teacher_loss"])
    assert "Llama-3.1-8B (loss" in said(f"gap {ASKED} {name}").stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"plan {ASKED} --price -3 --mfu 40", "mfu = 40"),
        (f"plan {ASKED} --serve-memory 8e9 --serve-bandwidth 1e12", "--serve-bandwidth 1e12 does nothing here"),
        (f"plan {ASKED} --weight-bytes 2", "--weight-bytes 2.0 does nothing here"),
        (f"plan {ASKED} --scenario inference --delta-lgt 1 --delta-pre 0", "--scenario inference does nothing here"),
        (f"plan {ASKED} --teacher llama-3.1-8b --train-teacher", "--train-teacher does nothing here"),
        (f"cost {ASKED} --teacher-params 8B --logits own", "--logits own does nothing here"),
        (f"cost {ASKED} --teacher-params 8B --delta-pre 0.5", "--teacher-tokens 2T"),
        (f"cost {ASKED} --teacher llama-3.1-8b --teacher-layers 3", "leave --teacher-layers out"),
        (f"predict --law surrogate-s1 {ASKED} --teacher llama-3.1-8b --teacher-loss 2", "leave --teacher-loss out"),
        ("map allocation --student 1B --size 5x9", "one axis"),
        (f"plan {ASKED} --teacher llama-3.1-8b --students-served 4", "--students-served 4 does nothing here"),
        (
            "plan --student 1B --compute 1e21 --teacher llama-3.1-8b --only-existing --students-served 4",
            "--students-served 4 does nothing here",
        ),
        ("fit runs.csv --law supervised --untied", "--untied does nothing without --vocab"),
        ("fit runs.csv --law supervised --supervised besiroglu2024", "supervised: only the distillation families"),
        ("study import runs.csv --dry-run --untied", "--untied does nothing without --vocab"),
        ("study new --kind teacher-choice --hours 1 --device h200 --cores 4", "--cores 4 does nothing beside --device"),
        ("study new --students 1M", "--students 1M does nothing here: kinds are listed"),
    ],
)
def test_an_option_that_cannot_act_is_refused(line, words):
    assert words in said(line, 2).stderr


@pytest.mark.parametrize(
    ("gap", "a_map"),
    [
        ("--student 5 --tokens 100", "allocation --student 5"),
        (f"{ASKED} --teacher-tokens 5", "gain --teacher-params 1B --teacher-tokens 5"),
        (f"{ASKED} --teacher-loss 13.9e3", "gain --teacher-loss 13.9e3"),
        (f"{ASKED} --teacher-loss 1.2", "gain --teacher-loss 1.2"),
        ("--student 1B --tokens 1e30", "gain --tokens 1e29..1e30"),
        ("--student 20 --tokens 400", "teacher --student 10..20"),
        ("--student 1B --tokens 20", "teacher --compute 1..5"),
    ],
)
def test_what_one_refuses_the_other_does_not_print(gap, a_map):
    for command in (f"gap {gap}", f"map {a_map}"):
        assert said(command, 2).stderr.count("\n") == 1


def test_a_teacher_at_hand_is_placed_also_where_nothing_can_be_recommended():
    """... and the next command asks of the same teachers."""
    asked = "gap --student 20k --teacher-tokens 15T --teacher-loss 1.851 --margin 1 --law surrogate-s2"
    done = said(asked)
    assert "NO RECOMMENDATION" in done.stdout and "A teacher of loss 1.851 costs" in done.stdout
    last = done.stdout.splitlines()[-1].removeprefix("next: distillaw ")
    assert all(word in last for word in asked.split()) and said(last).returncode == 0


def test_messages_use_the_names_that_were_typed():
    """The library's `teacher_params` is an option here; who typed the other name of one reads that."""
    for typed in ("--student-params", "--student"):
        error = said(f"predict --law surrogate-s1 {typed} 1Q --tokens 20B", 2).stderr
        assert error.startswith(f"distillaw: {typed}: cannot read '1Q'")
    half = said(f"predict --law surrogate-s1 {ASKED} --teacher-params 8B", 2).stderr
    assert "--teacher-params and --teacher-tokens belong together" in half
    assert said("plan --student 1B --tokens 1e30", 2).stderr.startswith("distillaw: --tokens = 1e+30")
    assert "--unique-tokens = 1e+30" in said(f"plan {ASKED} --unique-tokens 1e30", 2).stderr


def test_options_have_the_defaults_of_the_fields_they_fill():
    from dataclasses import asdict

    from distillaw.cli.instruct import DpoOptions, SftOptions
    from distillaw.cli.options import given
    from distillaw.instruct.spec import DpoSpec, SftSpec

    for options, spec in ((SftOptions, SftSpec), (DpoOptions, DpoSpec)):
        assert given(options()).items() <= asdict(spec(model="m", data="d")).items()


def test_a_number_is_refused_by_the_name_it_was_typed_with():
    assert said(f"regime {ASKED} --reference-batch 1M", 2).stderr.count("--reference-lr") == 1
    assert "--params: got '-1'; it must be positive" in said("cost --params -1 --tokens 20B", 2).stderr
    assert "--multiples: cannot read 'x'" in said("branch run.toml --out not-there --multiples 1,x", 2).stderr
