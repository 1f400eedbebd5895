"""What the later stages of a recipe would refuse, and what is known, before anything is spent.

The law of capacity gap is consulted for students cut from their teacher; the distillation laws know fresh students
only, and say by how much the case lies outside the runs behind them. What a later stage would refuse is refused before
the first, not after a week of training.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from distillaw.accounting.config import architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.data.bpe import read_bpe
from distillaw.errors import ConfigError
from distillaw.evaluate.benchmarks import choose_tasks, known_tasks, read_tasks
from distillaw.evaluate.chat import check_chat
from distillaw.evaluate.judges import check_judge
from distillaw.instruct.conversations import read_conversations, read_prompts
from distillaw.instruct.masks import choose_template
from distillaw.instruct.prepare import read_pairs
from distillaw.models.cut import sized_config
from distillaw.models.prune import StudentSize, Wishes, size_student
from distillaw.models.source import ModelSource, check_config, locate
from distillaw.models.upcycle import layout, mixture_config
from distillaw.models.vocabulary import MULTIPLE
from distillaw.planning.gap import PUBLISHED, CutSize, GapQuestion, capacity_gap, size_of_cut
from distillaw.recipe.spec import STAGES, MinimaSpec, Mixture, trained_stages


def foresee(spec: MinimaSpec, until: str = "report") -> None:
    """Read what the later stages will read: models, chat template, prompts, conversations, preferences, benchmarks.

    Args:
        until: the last stage that is run; what only later ones read is not looked at.

    Raises:
        CacheError: no model there.
        ConfigError: no chat template, an unknown benchmark, no such file.
        DataError: a file that is not in its format, or no benchmark's data there.
    """
    teacher = locate(spec.teacher)
    check_config(teacher, context=spec.training.context)
    if spec.smaller:
        check_config(locate(spec.smaller), context=spec.training.context)
    if spec.adapt is not None and spec.adapt.changes_vocabulary:
        read_bpe(teacher.name, teacher.tokenizer())
    if spec.upcycle is not None:
        _mixture(spec.upcycle, _sizes(spec, teacher)[0], teacher)
    if STAGES.index(until) < STAGES.index("instruct"):
        return
    choose_template(teacher.tokenizer(), spec.template, model=teacher.name)
    # every line of conversations and preferences is read once; that takes seconds for a million of them
    if spec.chats is None:
        read_prompts(spec.prompts)
    else:
        _require_some(sum(1 for _ in read_conversations(spec.chats)), spec.chats, "conversations")
    if spec.pairs is not None:
        _require_some(sum(1 for _ in read_pairs(spec.pairs)), spec.pairs, "pairs")
    for wishes in spec.judged if until != "instruct" else ():
        check_chat(wishes)
        check_judge(spec.teacher, None)  # no judge, but its answers stand beside the others
    if spec.tasks and until != "instruct":
        chosen = choose_tasks(spec.tasks, known_tasks(None))
        read_tasks(chosen, spec.evaluation_data, limit=spec.limit, skip_missing=True)


def _require_some(found: int, file: Path, what: str) -> None:
    if found < 2:
        raise ConfigError(f"{file}: {found} {what}; some are learnt and some held out, so at least 2 are needed")


def consult_laws(spec: MinimaSpec, teacher: str | None = None) -> dict[str, Any]:
    """The law stage's record, with what every stage that trains will cost.

    Args:
        teacher: the adapted one; None: it is not adapted yet, or will not be.

    Raises:
        CacheError: no teacher there.
        ConfigError: it cannot be cut so.
    """
    source = locate(teacher or spec.teacher)
    size, cut = _sizes(spec, source)
    opinions, disagreement = _opinions(spec, size.params)
    if teacher is None and spec.adapt is not None and spec.adapt.changes_vocabulary:
        had, adapt = size.teacher_shape.vocab, spec.adapt  # before pieces are learnt: whole multiples
        wanted = adapt.keep or had if adapt.pieces is None else had + adapt.pieces
        vocab = -(-wanted // MULTIPLE) * MULTIPLE
        shapes = {key: replace(getattr(size, key), vocab=vocab) for key in ("shape", "teacher_shape")}
        size = replace(size, **shapes)
    return size.record() | {
        "teacher": source.name,
        "ratio": size.teacher_params / size.params,
        "rule": cut.note,
        "size_by_law": cut.to_json(),
        "opinions": opinions,
        "disagreement": disagreement,
        "cost": _cost(spec, size, source),
    }


def _sizes(spec: MinimaSpec, source: ModelSource) -> tuple[StudentSize, CutSize]:
    """The student's size, and what the law says it should be."""
    whole = size_student(source, Wishes(keep=1.0)).teacher_params
    cut = size_of_cut(whole, spec.law or PUBLISHED, student_tokens=spec.tokens)
    params = cut.params if spec.params is None and spec.keep is None else spec.params
    return size_student(source, Wishes(params=params, keep=spec.keep)), cut


def _cost(spec: MinimaSpec, size: StudentSize, source: ModelSource) -> dict[str, Any]:
    """FLOP of every stage that trains: of a token three forward passes of what is trained, one of its teacher.

    `arms`, `tokens`, `student_flop` and `teacher_flop` of the whole are those of the distil stage.
    """
    context = spec.training.context
    teacher, student = (forward_flops(shape, context=context).total for shape in (size.teacher_shape, size.shape))
    between = iter(size_student(source, Wishes(keep=size.keep ** (step / spec.steps))) for step in range(1, spec.steps))
    stages = []
    for row in trained_stages(spec):
        own = student
        if row["stage"] == "adapt":
            own = teacher
        elif row["stage"] == "prune":
            shape = replace(next(between).shape, vocab=size.shape.vocab)
            own = forward_flops(shape, context=context).total
        elif row["stage"] == "upcycle":
            assert spec.upcycle is not None
            config = _mixture(spec.upcycle, size, source)
            own = forward_flops(architecture_from_config(config, source="mixture"), context=context).total
        beside = 0.0 if row["stage"] == "adapt" else teacher * row["tokens"]
        stages.append(row | {"student_flop": 3 * own * row["tokens"] * row["arms"], "teacher_flop": beside})
    distil = next(row for row in stages if row["stage"] == "distil")
    return {key: value for key, value in distil.items() if key != "stage"} | {"stages": stages}


def _mixture(wanted: Mixture, size: StudentSize, source: ModelSource) -> dict[str, Any]:
    """The configuration of the mixture that a student of this size becomes.

    Raises:
        ConfigError: another family, or a layout that its layers cannot have.
    """
    layers = size.shape.layers
    dense = sized_config(source.config(), size.shape, tuple(range(layers)))
    return mixture_config(dense, layout(layers, wanted.experts, bottom=wanted.bottom)).to_dict()


def _opinions(spec: MinimaSpec, params: float) -> tuple[list[object], list[str]]:
    """What the laws say of the teacher's size, and where they disagree; or why none of them was asked.

    A recipe may be tried on fewer tokens than any law speaks of; that stops no recipe.
    """
    try:
        asked = GapQuestion(
            student_params=params,
            student_tokens=float(spec.tokens),
            margin=0.005,
            teacher_tokens=spec.teacher_tokens or None,
            teacher_tokens_per_param=None if spec.teacher_tokens else 20.0,
        )
        answer = capacity_gap(asked)
    except ConfigError as error:
        return [], [f"no law was asked: {error}"]
    return [opinion.to_json(params) for opinion in answer.opinions], list(answer.disagreement)
