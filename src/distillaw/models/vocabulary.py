"""Do teacher and student speak of the same tokens? Asked token by token before any forward pass.

Logits of another vocabulary would train the student on nonsense without an error, so a different token-to-id map is
refused; docs/teachers.md says why no cross-tokenizer method is offered and what to do instead. Padded heads (more rows
than tokens, e.g. 151,936 for Qwen2's 151,665) lose the rows that no token owns.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.errors import VocabularyError
from distillaw.models.source import ModelSource, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_vocabulary(
    teacher: str | Path | ModelSource,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    teacher_tokenizer: str | Path | None = None,
) -> None:
    """Refuse a teacher whose token-to-id map, added and special tokens included, differs from the study's.

    Args:
        teacher: a folder, a GGUF file or a name on the hub.
        tokenizer: the study's.
        teacher_tokenizer: where the teacher's own tokenizer lies, if not beside its weights.

    Raises:
        CacheError: the teacher has no tokenizer.
        VocabularyError: naming up to three differing tokens and what to do.
    """
    source = locate(teacher)
    theirs = (locate(teacher_tokenizer) if teacher_tokenizer else source).tokenizer().get_vocab()
    ours = tokenizer.get_vocab()
    if theirs != ours:
        raise VocabularyError(
            f"{source.name}: the teacher has another vocabulary ({len(theirs)} entries against {len(ours)}; "
            f"{_differences(theirs, ours)}). Set data.tokenizer to the teacher's folder so that both share one "
            "tokenizer, or choose another teacher; distilling across tokenizers is not done (docs/teachers.md)"
        )
    if max(ours.values()) >= len(tokenizer):
        raise VocabularyError(
            f"{source.name}: the shared tokenizer has ids up to {max(ours.values())} for {len(tokenizer)} entries; "
            "students have one row per entry, so ids must run without gaps from 0. Choose another teacher"
        )


def _differences(theirs: dict[str, int], ours: dict[str, int]) -> str:
    different = [token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)]
    different.sort(key=lambda token: (theirs.get(token, ours.get(token)), token))
    shown = ", ".join(
        f"{token!r} is {theirs.get(token, 'absent')} there, {ours.get(token, 'absent')} here"
        for token in different[:3]
    )
    return f"{len(different)} tokens differ, e.g. {shown}"


def check_rows(name: str, rows: int, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Rows of the teacher's head that no token of the (shared, gapless) vocabulary owns, to be trimmed.

    Raises:
        VocabularyError: fewer rows than tokens.
    """
    if rows < len(tokenizer):
        last = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[rows : rows + 3]
        shown = ", ".join(f"{token!r} ({index})" for token, index in last)
        raise VocabularyError(
            f"{name}: the teacher's head has {rows} rows for {len(tokenizer)} tokens; {len(tokenizer) - rows} have "
            f"no row, e.g. {shown}. It was trained with another tokenizer: give that one, or choose another teacher"
        )
    return rows - len(tokenizer)
