"""What a later stage would refuse is refused before the first, not after a week of training."""

from pathlib import Path

from distillaw.errors import ConfigError
from distillaw.models.source import check_config, locate
from distillaw.recipe.spec import STAGES, MinimaSpec


def foresee(spec: MinimaSpec, until: str = "report") -> None:
    """Read what the later stages will read: models, chat template, prompts, conversations, preferences, benchmarks.

    Args:
        spec: what is wanted.
        until: the last stage that is run; what only later ones read is not looked at.

    Raises:
        CacheError: no model there.
        ConfigError: no chat template, an unknown benchmark, no such file.
        DataError: a file that is not in its format, or no benchmark's data there.
    """
    from distillaw.instruct.templates import choose_template

    teacher = locate(spec.teacher)
    check_config(teacher, context=spec.training.context)
    if spec.smaller:
        check_config(locate(spec.smaller), context=spec.training.context)
    if STAGES.index(until) < STAGES.index("instruct"):
        return
    choose_template(teacher.tokenizer(), spec.template, model=teacher.name)
    _foresee_files(spec)
    if spec.tasks and until != "instruct":
        from distillaw.evaluate.benchmarks import choose_tasks, known_tasks, read_tasks

        read_tasks(choose_tasks(spec.tasks, known_tasks(None)), spec.evaluation_data, limit=spec.limit,
                   skip_missing=True)  # fmt: skip


def _foresee_files(spec: MinimaSpec) -> None:
    """Every line of the conversations and preferences is read once; that takes seconds for a million of them."""
    from distillaw.instruct.conversations import read_conversations
    from distillaw.instruct.pairs import read_pairs
    from distillaw.instruct.prompts import read_prompts

    if spec.chats is None:
        read_prompts(spec.prompts)
    else:
        _require_some(sum(1 for _ in read_conversations(spec.chats)), spec.chats, "conversations")
    if spec.pairs is not None:
        _require_some(sum(1 for _ in read_pairs(spec.pairs)), spec.pairs, "pairs")


def _require_some(found: int, file: Path, what: str) -> None:
    if found < 2:
        raise ConfigError(
            f"{file}: {found} {what}; some are learnt and some held out, so at least 2 are needed"
        )
