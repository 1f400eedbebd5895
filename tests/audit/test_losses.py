"""Losses: every injected bug is found for its own reason, and designs are not flagged."""

import json

import pytest

from benchmarks.audit.injected_fresh import FRESH, FRESH_DESIGNS
from benchmarks.audit.injected_losses import DESIGNS, OPEN, OWN, Injected
from distillaw.audit.contract import TEMPLATE, Contract, DeclaredLoss, checked, read_contract
from distillaw.audit.findings import PROPERTIES, Findings, finding_table
from distillaw.audit.losses import audit_loss
from distillaw.audit.run import audit_target
from distillaw.errors import ConfigError
from in_process import answer
from thinned import one_in


def verdicts(injected) -> dict[str, set[str]]:
    found = audit_loss(injected.loss(), injected.contract(), injected.name).to_json()
    return {
        verdict: {p["name"] for p in found["properties"] if p["verdict"] == verdict}
        for verdict in ("wrong", "differs", "right")
    }


@pytest.mark.parametrize("injected", one_in(3, OPEN + OWN), ids=lambda injected: injected.name)
def test_a_bug_is_found_for_its_own_reason(injected):
    found = verdicts(injected)
    assert found["wrong"] & set(injected.properties), found
    assert not found["wrong"] - set(injected.properties), found


@pytest.mark.parametrize("injected", DESIGNS, ids=lambda injected: injected.name)
def test_a_declared_design_is_not_flagged(injected):
    found = verdicts(injected)
    assert not found["wrong"] | found["differs"]
    assert {"shift", "mask", "loss", "normalisation", "weights"} <= found["right"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "injected", [i for i in FRESH + FRESH_DESIGNS if isinstance(i, Injected)], ids=lambda injected: injected.name
)
def test_what_was_written_afterwards(injected):
    found = verdicts(injected)
    assert bool(found["wrong"] & set(injected.properties)) == bool(injected.properties), found
    assert injected.properties or not found["differs"]


def test_an_undeclared_design_is_named():
    """The same designs, held against the plain contract: what they compute is said."""
    for injected in DESIGNS:
        if injected.objective.get("reported") == "cross-entropy":
            plain = checked(Contract(objective=DeclaredLoss(**PLAIN, reported="objective")))
            found = audit_loss(injected.loss(), plain, injected.name)
            assert not found.is_wrong
            assert found.verdict("value") == "differs"
            assert "cross-entropy to the teacher" in found.evidence("value")[0].says


PLAIN = {
    "divergence": "forward-kl",
    "temperature": 3.0,
    "temperature_squared": True,
    "distill_weight": 0.5,
    "hard_weight": 0.5,
    "reduction": "token-mean",
    "mask": "labels",
    "shift": "inside",
}


@pytest.mark.parametrize("field", sorted(PLAIN))
def test_what_is_not_declared_is_asked_for(field):
    with pytest.raises(ConfigError, match=f"not declared: .*objective.{field}"):
        checked(Contract(objective=DeclaredLoss(**{k: v for k, v in PLAIN.items() if k != field})))


def test_the_command_line(tmp_path):
    (tmp_path / "contract.toml").write_text(answer("audit", "--new-contract").stdout)
    assert (tmp_path / "contract.toml").read_text() == TEMPLATE
    assert read_contract(tmp_path / "contract.toml").objective.temperature == 2
    loss = """
import torch.nn.functional as F

def loss(student_logits, teacher_logits, labels, temperature=2.0):
    print("as many losses do")
    s, t, y = student_logits[:, :-1], teacher_logits[:, :-1], labels[:, 1:]
    kd = F.kl_div((s / temperature).log_softmax(-1), (t / temperature).softmax(-1), reduction="none").sum(-1)
    n = (y != -100).sum().clamp(min=1)
    ce = F.cross_entropy(s.flatten(0, 1), y.flatten(), ignore_index=-100, reduction="sum") / n
    return 0.5 * FACTOR * (kd * (y != -100)).sum() / n + 0.5 * ce
"""
    (tmp_path / "right.py").write_text(loss.replace("FACTOR", "temperature**2"))
    (tmp_path / "wrong.py").write_text(loss.replace("FACTOR", "1"))
    contract = ("--contract", tmp_path / "contract.toml")
    answer("audit", f"{tmp_path}/right.py:loss", *contract, "--json", code=0)
    page = tmp_path / "audit.html"
    found = json.loads(answer("audit", f"{tmp_path}/wrong.py:loss", *contract, "--json", "--out", page, code=1).stdout)
    assert found["schema_version"] == 1
    by_name = {p["name"]: p for p in found["properties"]}
    assert by_name["temperature"]["verdict"] == "wrong"
    example = by_name["temperature"]["evidence"][0]["example"]
    assert example["positions"] <= 4
    assert example["gradient"] != example["declared"]
    assert "the factor T^2 is missing" in page.read_text()
    assert answer("audit", f"{tmp_path}/right.py:loss").returncode == 2
    assert answer("audit", f"{tmp_path}/right.py:nothing", *contract).returncode == 2
    assert answer("audit", *contract).returncode == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import sys; sys.exit(0)", "ends the process"),
        ("return student_logits.sum(-1)", r"shape \(4, 12\)"),
        ("raise KeyError('gone')", "KeyError: 'gone'"),
    ],
)
def test_a_target_that_cannot_be_audited_is_an_error(tmp_path, body, said):
    (tmp_path / "mine.py").write_text(f"def loss(student_logits, teacher_logits, labels): {body}\nloss_of = 3\n")
    contract = read_contract(_written(tmp_path / "contract.toml", TEMPLATE))
    with pytest.raises(ConfigError, match=said):
        audit_target(f"{tmp_path}/mine.py:loss", contract)
    with pytest.raises(ConfigError, match="of type int; give a function"):
        audit_target(f"{tmp_path}/mine.py:loss_of", contract)


SHORT = """
import torch.nn.functional as F

def loss(student_logits, teacher_logits, labels):
    s, t, y = student_logits[:, :-1], teacher_logits[:, :-1], labels[:, 1:]
    kd = F.kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="REDUCTION") * 4
    return 0.5 * kd + 0.5 * F.cross_entropy(s.flatten(0, 1), y.flatten())
"""


@pytest.mark.parametrize(
    ("reduction", "said"),
    [("batchmean", "row-mean, not by token-mean"), ("mean", "token-mean, and averaged over the vocabulary")],
)
def test_a_missing_mask_hides_no_division(tmp_path, reduction, said):
    path = _written(tmp_path / "mine.py", SHORT.replace("REDUCTION", reduction))
    found = audit_target(f"{path}:loss", read_contract(_written(tmp_path / "contract.toml", TEMPLATE)))
    assert {p for p in PROPERTIES if found.verdict(p) == "wrong"} == {"mask", "normalisation"}
    assert f"the divergence is reduced by {said}" in found.evidence("normalisation")[0].says
    assert len(found.evidence("mask")) == 1


def test_what_is_never_finite_is_said_once(tmp_path):
    body = "return student_logits.sum() / 0.0 * 0"
    path = _written(tmp_path / "mine.py", f"def loss(student_logits, teacher_logits, labels): {body}")
    found = audit_target(f"{path}:loss", read_contract(_written(tmp_path / "contract.toml", TEMPLATE)))
    assert [p for p in PROPERTIES if found.verdict(p) != "not-testable"] == ["loss"]
    assert "not finite in any of" in found.evidence("loss")[0].says


def test_a_target_that_never_ends(tmp_path):
    path = _written(
        tmp_path / "mine.py",
        """
def loss(student_logits, teacher_logits, labels):
    while True:
        try:
            len(labels)
        except Exception:
            pass
""",
    )
    contract = _written(tmp_path / "contract.toml", TEMPLATE)
    ended = answer("audit", f"{path}:loss", "--contract", contract, "--timeout", "0.5", code=2)
    assert "not done after 0.5 s; it was at: four ragged rows" in ended.stderr


def test_a_contract_says_how_one_is_made_and_what_a_word_may_be(tmp_path):
    with pytest.raises(ConfigError, match="empty; `distillaw audit --new-contract` writes"):
        read_contract(_written(tmp_path / "contract.toml", ""))
    with pytest.raises(ConfigError, match=r"contract.toml: target.kind = 'trainr'.*loss, loop, trainer, script"):
        read_contract(_written(tmp_path / "contract.toml", '[target]\nkind = "trainr"\n'))


def test_sentences_that_differ_in_numbers_are_one():
    found = Findings("several", "loss")
    for count in (36, 38, 37):
        found.right("loss", f"{count} gradients at T = 2")
    assert finding_table(found.to_json(), verdicts=["right"]).rows == [["loss", "right", "36 to 38 gradients at T = 2"]]


def test_an_ordinary_loss_is_right_by_the_plain_contract(tmp_path):
    """NaN, or the 0.0 that a sum began with, where nothing counts: a matter of the contract, which is silent."""
    (tmp_path / "mine.py").write_text("""
def loss(student_logits, teacher_logits, labels):
    total, count = 0.0, 0
    for s, t, y in zip(student_logits[:, :-1], teacher_logits[:, :-1], labels[:, 1:]):
        s, t, y = s[y >= 0], t[y >= 0], y[y >= 0]
        if len(y):
            p, q = (t / 2).log_softmax(-1), (s / 2).log_softmax(-1)
            hard = -s.log_softmax(-1).gather(-1, y[:, None]).sum()
            total, count = total + 0.5 * (4 * (p.exp() * (p - q)).sum() + hard), count + len(y)
    return total / count if count else WHERE_NOTHING_COUNTS
""")
    contract = read_contract(_written(tmp_path / "contract.toml", TEMPLATE))
    for number, nothing in enumerate(("total", "float('nan')")):
        text = (tmp_path / "mine.py").read_text().replace("WHERE_NOTHING_COUNTS", nothing)
        found = audit_target(f"{_written(tmp_path / f'mine_{number}.py', text)}:loss", contract)
        assert not found.is_wrong, found.to_json()


def _written(path, text):
    path.write_text(text)
    return path
