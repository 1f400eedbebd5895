"""A teacher: any causal language model in a folder that `AutoModelForCausalLM` loads, frozen, in eval mode.

Its vocabulary is compared with the study's token by token before any forward pass: logits of another
vocabulary would train the student on nonsense without an error.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.errors import CacheError, VocabularyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_teacher(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """Load, check and freeze a teacher.

    Raises:
        CacheError: the folder holds no loadable model.
        VocabularyError: its vocabulary is not the study's (the first differing tokens are shown).
    """
    from transformers import AutoModelForCausalLM

    check_vocabulary(folder, tokenizer)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # safetensors and the loaders below raise types of their own for damaged files
        raise CacheError(f"{folder}: no teacher can be loaded ({str(error).splitlines()[0]})") from error
    rows = model.get_output_embeddings().weight.shape[0]
    if rows != len(tokenizer):
        raise VocabularyError(
            f"{folder}: the teacher's head has {rows} rows, the tokenizer {len(tokenizer)} entries. Padded "
            "vocabularies are not trimmed yet; resize the head to the tokenizer's size"
        )
    model.eval()
    return model.requires_grad_(False)


def check_vocabulary(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a teacher whose token-to-id map differs from the study's.

    Raises:
        VocabularyError: naming up to three differing tokens and what to do.
    """
    from distillaw.data.tokenizer import load_tokenizer

    theirs, ours = load_tokenizer(str(folder)).get_vocab(), tokenizer.get_vocab()
    if theirs == ours:
        return
    different = [t for t in sorted(ours.keys() | theirs.keys()) if ours.get(t) != theirs.get(t)]
    shown = ", ".join(f"{t!r} is {theirs.get(t)} there, {ours.get(t)} here" for t in different[:3])
    raise VocabularyError(
        f"{folder}: the teacher has another vocabulary ({len(theirs)} entries against {len(ours)}; "
        f"{len(different)} tokens differ, e.g. {shown}). Set data.tokenizer to the teacher's folder so that both "
        "share one tokenizer, or choose another teacher"
    )
