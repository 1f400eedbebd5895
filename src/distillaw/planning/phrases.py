"""The words of a verdict, once: the command says them, and the planner page is given them with its data.

    say("pays for none", compute=1e18)  ->  "compute 1.00e18 FLOP pays for no teacher considered. ..."

A phrase has slots, `{name}` or `{name:form}`; a form is one of FORMS or a format specification of Python. Which phrase
is said of what, and every number in it, is decided where it is said.
"""

from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

from distillaw.laws.base import OUTSIDE
from distillaw.planning.draws import Interval
from distillaw.quantities import format_count, format_flop, format_size, times
from distillaw.runs.record import budget_text


def nats(value: float, noise: float | None = None) -> str:
    """A loss or gain with the digits its noise supports: three, or four where they mean something."""
    digits = 4 if noise is not None and noise < 0.002 else 3
    return f"{value:z.{digits}f}"


def percent(probability: float) -> str:
    """A probability as people say it; never 0 or 100 %."""
    if probability > 0.995:
        return "over 99 %"
    if probability < 0.005:
        return "under 1 %"
    return f"{100 * probability:.0f} %"


def interval(value: Interval) -> str:
    """`0.253 [0.236, 0.270]`."""
    half = (value.upper - value.lower) / 2
    return f"{nats(value.mean, half)} [{nats(value.lower, half)}, {nats(value.upper, half)}]"


FORMS: Mapping[str, Callable[[Any], str]] = {
    "count": format_count,
    "size": format_size,
    "flop": format_flop,
    "budget": budget_text,
    "times": times,
    "nats": nats,
    "percent": percent,
    "interval": interval,
    "Capital": lambda text: text[:1].upper() + text[1:],
    "s": lambda count: "" if count == 1 else "s",
}


class _Words(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        form = FORMS.get(format_spec)
        return form(value) if form else format(value, format_spec)


_WORDS = _Words()


def say(name: str, /, **slots: object) -> str:
    """A phrase with its slots filled."""
    return _WORDS.vformat(PHRASES[name], (), slots)


_VERDICT = {
    "distil": "{option:Capital}: {probability:percent} likely{by} to beat pretraining by more than {margin:nats} "
    "nats/token for {student}; gain {gain}",
    "pretrain": "{option:Capital}: {probability:percent} likely{by} to beat the best teacher considered by more "
    "than {margin:nats} nats/token for {student}; gain {gain} over the best of them",
    "by": " (by surrogates alone)",
    "by unsaid": " (by surrogates alone; what a weak teacher costs hangs on --distill-weight)",
    "alone": "pretrain without a teacher",
    "unknown": "Unknown for {student}: no evidence reaches it. {source:Capital} are all there is: {note}",
    "too close": "Too close to call for {student}: {distil:percent}{by} that distilling is better by more than "
    "{margin:nats} nats/token, {pretrain:percent} that pretraining is; the gain of the best teacher is "
    "{gain}. If you must choose now: {leading}",
    "stated": "{value} nats/token {band} ({level:.0f} % interval)",
    "more FLOP": "; it takes {ratio:times} times the FLOP, for which nobody knows what pretraining gives",
    "at equal FLOP": "; at equal FLOP {words}",
    "with one": "; with a teacher already trained, at equal tokens, {distil:percent} that distilling is better",
    "nor with one": "; nor is it clear with a teacher already trained, at equal tokens",
    "student on tokens": "a {size} student on {tokens:budget} tokens",
    "student within": "a {size} student within {compute:flop}",
    "free size": "free-size",
    "free size up to": "free-size (up to {limit:size})",
}
_REASONS = {
    "decided by": "Decided by {source}: {note}.",
    "shown": "Shown, not believed: {source}: {note}.",
    "supposed": "Were {teacher}{trained} already trained, at no cost of this student, the gain of distilling "
    "from it at equal tokens would be {gain:interval} (--teacher names one that you have).",
    "trained on": " on {tokens:count} tokens",
    "losses": "Student loss {distilled:nats} nats/token from {teacher}, {alone:nats} without a teacher.",
    "teacher of loss": "{teacher} (loss {loss:nats})",
    "best of": "Best of {count} teachers with probability {share:percent}.",
    "best of measured": "Best of {count} teachers with probability {share:percent}; how likely it is to win "
    "counts that the best of several noisy measurements looks better than it is.",
    "equal compute": "At equal compute ({compute:flop}; pretraining then gets {tokens:count} tokens) "
    "{still}: gain of distilling {gain:interval} ({basis}).",
    "equal unknown": "At equal compute ({compute:flop}; pretraining then gets {tokens:count} tokens) nobody "
    "knows: {basis}.",
    "unreached": "no source reaches that far: train the student without a teacher on these tokens",
    "put the gain": "{source:Capital} put the gain at {gain:interval}.",
    "better start": "Starts: {option} against {other}: gain {gain:interval}; the cut is the better start with "
    "probability {share:percent}.",
    "ahead from": "Training without a teacher is ahead from {tokens:count} tokens on, where the search "
    "begins, in {share:percent} of the draws ({source}).",
    "not before": "Training without a teacher does not catch up before {tokens:count} tokens in "
    "{share:percent} of the draws ({source}).",
    "catching up": "Catching up: at {caught_up}.",
    "caught up": "{median:count} tokens [{low} to {high}, {level:.0f} % band], where training without a "
    "teacher catches up{none} ({source})",
    "before": "before {tokens:count}",
    "beyond": "beyond {tokens:count}",
    "none in": "; none in {share:percent} of the draws",
    "teacher size": "Teacher size: of teachers trained on {ratio:count} tokens per parameter the best has "
    "{best:size}{edge}; {low} to {high} are within {flat:.1f} % of the loss.",
    "or beyond": " or beyond",
    "smallest searched": "the smallest searched",
    "largest searched": "the largest searched",
}
_CHANGES = {
    "then": "{text}: then {words}",
    "measured": "the student was measured: a pair of runs with and without a teacher outweighs everything said here",
    "same FLOP": "pretraining may spend the same FLOP, that is {tokens:count} tokens: then {words} (gain of "
    "distilling {gain:interval})",
    "did not matter": "a difference of {gain:nats} nats/token did not matter to you (this verdict asks for "
    "more than {margin:nats})",
    "tokens were": "tokens were {then:count} instead of {now:count}",
    "compute were": "compute were {then:flop} instead of {now:flop}",
    "student had": "the student had {then:size} parameters",
    "students shared": "{then:.0f} student{then:s} shared the teacher instead of {now}",
    "teacher's loss was": "{whose} loss was {then:.3f} instead of {now:.3f} nats/token",
    "the teacher's": "the teacher's",
    "scenario was": "the cost scenario was {then} instead of {now}",
    "only": "only {teacher} was at hand",
}
_OPTIONS = {
    "option pretrain": "pretrain",
    "option pretrain-larger": "pretrain a larger student ({params:size})",
    "option distil": "distil from {teacher}",
    "option train-teacher": "train a {name}, then distil",
    "option distil-then-pretrain": "{taught:.0f} % of the tokens from {teacher}, then pretrain",
    "option prune-and-distil": "prune {source}, then distil",
    "option prune-and-distil-from": "prune {source}, then distil from {teacher}",
    "option prune-and-pretrain": "prune {source}, then pretrain",
    "trained teacher": "{params:size} teacher on {tokens:count} tokens",
    "sized teacher": "{params:size} teacher",
    "teacher by loss": "teacher of loss {loss:g}",
    "the student itself": "the student itself",
    "mean of models": "mean of {count} {params:size} models",
}
_ASSUMPTIONS = {
    "about loss": "The verdict is about held-out loss in nats/token on text like the validation split, not "
    "about skill.",
    "compared at": "Compared at {comparison}; {paid}.",
    "pays": "cost scenario {scenario}: {words}",
    "budget is": "The budget is {budget}.",
    "largest student": "The largest student that can be served has {params:size}: {why}.",
    "must be trained": "Teachers that do not exist yet must be trained: that is in the bill, shared by "
    "{count} student{count:s}.",
    "stored": "Logits are computed once, stored, and read by {count} students.",
    "serving": "Serving {tokens:count} tokens is in every bill.",
    "FLOP counted": "FLOP are counted for a vocabulary of {vocab} and a context of {context} where no run "
    "counted them; parameters exclude embeddings.",
    "text unknown": "Nothing says how your text compares with that of the laws: it is taken to be as hard, "
    "with more doubt. The name of a teacher, or its size and tokens beside its loss, would say.",
    "text and teacher": "{teacher:Capital}: a loss of {loss:nats} is {off} what {source} make of its size "
    "and tokens; {text} is put down to your text (give or take {sd:.0f} %), and the teacher is judged as "
    "{judged} than they make of it.",
    "above": "{share:.1f} % above",
    "below": "{share:.1f} % below",
    "harder": "{share:.1f} % harder",
    "easier": "{share:.1f} % easier",
    "worse": "{share:.1f} % worse",
    "better": "{share:.1f} % better",
    "tell apart": "The student's own loss on your text would tell text and teacher apart.",
    "in nats": "are these losses nats per token? They are {off} what {source} make of the same models. Nats per token "
    "are bits per byte times 0.69 times the bytes of a token (about 4)",
    "by baseline": "By your own baselines losses on your text are {off} what {source} make of the same models (give "
    "or take {sd:.1f} %).",
    "at your ratio": "{teacher:Capital} has {ratio:.2f} of the loss that this student has without a teacher, and is "
    "judged by that ratio.",
    "realised": "Of the gains that the laws make of such a ratio {share:.0f} % (give or take {sd:.0f} %) are expected: "
    "far below the fitted range students of {low:size} to {high:size} parameters had {least:.0f} % of them, nobody "
    "measured between, and what a teacher costs it costs whole (docs/verdict.md).",
    "counted": "{share:.0f} % (give or take {sd:.0f} %) of the gains that published laws make of this question are "
    "counted: what published outcomes and students far outside their range had of them (docs/retrodiction.md).",
    "compute gain": "At equal compute distilling is taken to gain {share:.1f} % of the loss beside what laws say: "
    "outcomes of two sources (docs/retrodiction.md).",
    "begun gain": "Of what laws make of a teacher for a cut {share:.0f} % is counted (docs/retrodiction.md).",
    "too short": "{per_param:.2g} tokens per parameter, fewer than {least:g}: no run that was learnt from is so short",
    "repeated gain": "On text that is read more than four times a teacher is taken to gain {share:.1f} % of the loss "
    "(give or take {sd:.1f} %) beside what laws say: outcomes of three sources (docs/retrodiction.md).",
    "recipe weight": "--distill-weight {weight:g}: the weight of the teacher's term lies above 0, which is "
    "pretraining, and is at most 1, which is distillation alone",
    "recipe temperature": "--temperature {temperature:g}: between 0.1 and 20; 1 leaves distributions as they are",
    "recipe top k": "--top-k {count}: a whole number of ids, at least 1",
    "recipe whole": "--top-k {count}: the vocabulary has {vocab} ids; leave it out to keep them all",
    "other vocab": "--vocab {vocab}: {teacher} has {own} ids, and a student that learns from its probabilities has the "
    "same; leave it out",
    "recipe top p": "--top-p {mass:g}: the mass that is kept, between 0 and 1; leave it out to keep all",
    "recipe infinite": "--divergence reverse-kl towards targets cut by --top-k or --top-p is infinite wherever the "
    "student has mass and the target none; use forward-kl or skew-reverse-kl",
    "recipe word": "--{name} {value}: one of {known}",
    "recipe annealed": "--schedule annealed: the weight falls to nothing, and --distill-weight 1 leaves the text's "
    "term out all along; leave one of them out",
    "recipe sampled": "--policy sequence: the student learns from the teacher's samples as from text, without its "
    "probabilities; leave out --temperature, --top-k and --top-p",
    "recipe unsaid random": "No weight of the teacher's term was said (--distill-weight). Published recipes from "
    "random weights mix it with the text's: with {share:.0f} % it is taken to stand alone and do all the harm that "
    "laws make of a weak teacher, else to be so chosen that it does none (docs/retrodiction.md).",
    "recipe unsaid pruned": "No weight of the teacher's term was said (--distill-weight). For cuts it mostly stands "
    "alone: with {share:.0f} % it is taken to do all the harm that laws make of a weak teacher, else none "
    "(docs/retrodiction.md).",
    "recipe counts": "The recipe leaves {gained:.0f} % of a gain by published laws and {lost:.0f} % of a loss "
    "(docs/worlds-study.md, 0.03M students; docs/retrodiction.md).",
    "recipe tuned": "Of several weights the best is kept: what a weak teacher costs is not counted, and the best of "
    "a few runs is {gain:.2f} % of the loss ahead by luck.",
    "recipe handed over": "A run that ends on the text alone is taken to keep {held:.0f} % of a gain (give or take "
    "{sd:.0f} %: anything from none to all; our own students kept more the nearer they ended to their teacher, "
    "docs/verdict.md) and to lose nothing to a weak teacher.",
    "recipe truncated": "Targets cut to the most likely ids lost to training alone in most outcomes; give or take "
    "{sd:.0f} % of the loss. Samples of the teacher's distribution do not (docs/targets.md).",
    "recipe unknown": "Nothing is known here of {divergence} against forward KL in pretraining: it is not counted.",
    "recipe between": "Nothing was measured between temperatures 1 and 2: {temperature:g} is not counted.",
    "recipe own": "The recipe asked about is not counted: your own runs and fits are of the recipe they had.",
    "stronger": "By these laws a stronger teacher than {teacher} would serve this student better.",
    "weaker": "By these laws a weaker teacher than {teacher} would serve this student better (distillaw gap).",
    "repeats": "{tokens:count} tokens are {passes:.3g} passes over {unique:count} unique ones and count as "
    "{worth:count} (Muennighoff et al. 2023, supervised runs; taken to hold for distilled ones too, which "
    "nobody has measured).",
    "estimate distil-then-pretrain": "Distil then pretrain is an estimate: the student is taken to stand "
    "where pretraining reaches the same loss, and to go on from there. It never carries the verdict.",
    "begins as a cut": "Students begin as a cut of {source} that keeps {kept:.0f} % of it, {taught:count} tokens ahead "
    "of random weights with a teacher and {alone:count} without (law of starts, give or take a factor {factor:.1f}; "
    "docs/prune.md).",
    "cuts beside": "A cut of {source} is taken to begin {taught:count} tokens ahead of random weights with a teacher "
    "and {alone:count} without (law of starts, give or take a factor {factor:.1f}; docs/prune.md). The verdict is on "
    "random starts; --start pruned asks about cuts.",
}
_WARNINGS = {
    "disagree": "{one} and {other} disagree: gains {a} and {b} nats/token do not meet; the answer is as wide as that",
    "ends": "[{lower:.3f}, {upper:.3f}]",
    "chosen size": "a law chose the student's size: on simulated truths a little better than 20 tokens per parameter, "
    "with serving in the bill clearly so, and never surely (docs/verdict.md). A pilot of a second size, or --student, "
    "settles it",
    "silent": "{source}: {status}: {note}",
    "left out": "left out: {teacher}: {why}",
    "must train beside": "it must be trained, and beside a teacher at hand that is a question of FLOP: give --compute",
    "loss unknown": "nothing that may decide knows its loss",
    "size unknown": "without its size its logits cannot be priced, and the budget is a bill: give --teacher-params",
    "tokens unknown": "without its tokens its training cannot be priced, and the budget is a bill: give "
    "--teacher-tokens",
    "bill too high": "its bill leaves nothing for the student (who pays for its training? --scenario, "
    "--students-served)",
    "asked for": "{source} was asked for and may not carry a plan ({status}: {note})",
    "refused": "REFUSED as a basis: {source} may not carry a plan; the verdict is left open.",
    "not believed": "Nothing in range speaks for this student; {source} is shown, not believed.",
    "few tokens": "{option}: {ratio:.2g} tokens per parameter; no published law was fitted below 1",
    "no better": "{teacher} (loss {loss:.3f}) is no better than the student by itself ({own:.3f}): expect it "
    "to hold the student back",
    "loss of the law": "the loss of {teacher} ({loss:.3f}) is what the law makes of its size and tokens "
    "alone: measure it on yours, distillaw scout",
    "smaller teacher": "{option}: a teacher smaller than the student; no law here can describe a student "
    "that beats its teacher",
    "over budget": "{option} costs {total:flop}, more than the budget",
}
_EVIDENCE = {
    "consensus": "the consensus of {sources}",
    "first": "{source} first: {note}",
    "no teacher": "no teacher to judge",
    "texts apart": "the teachers' losses and this law's are of two texts: give each teacher's size and "
    "tokens with its loss (--teacher-tokens, --scout-tokens), or measure the student's own loss",
    "vague baseline": "{where}; there the student's own loss must be known to {most:.0f} %, and your baselines tell it "
    "to {sd:.0f} %: give one of this size on as many tokens",
    "inside": "inside the fitted range",
    "outside": "outside the fitted range ({far})",
    "far": "{coordinate} {factor:times} times",
    "runs' rates": "; RATE_NOT_CHECKED: its runs may have lost {alone:.3f} nats alone and {taught:.3f} from a teacher "
    "to their learning rates, last checked at {checked} tokens",
    "guess": "{where}: whatever it says is a guess",
    **OUTSIDE,
    "on your text": "{line} (on the law's text; {loss:.4g} on yours)",
    "policy on": "no law and too few outcomes say what learning on the student's own samples is worth in pretraining; "
    "for instruction docs/instruct.md measures it",
    "policy sequence": "no law says what the teacher's samples are worth as text; in place of it they lost in all 8 "
    "published comparisons, of three sources (docs/retrodiction.md)",
    "line free size": "says nothing of a student of free size",
    "line too small": "means nothing below {smallest:size}",
    "line chooses": "would choose a {best:size} teacher{arm}; it says nothing of losses",
    "line pruned": ", for students pruned from their teacher",
    "pretrained unknown": "no law says what a start from another pretrained model is worth on your text; a pilot of it "
    "beside random weights would",
    "cut of none": "no teacher is at hand to cut the student out of",
    "cut is billed": "a cut is had where its source is at hand, and in this scenario its training is in the bill",
    "cut of unknown": "what a cut is worth hangs on the size and the tokens of its source: give both "
    "(--teacher-params, --teacher-tokens)",
    "cut is no cut": "the teacher is no larger than the student: there is nothing to cut",
    "cut too small": "no law says what so small a part of a teacher is worth as a start",
}
_REFUSALS = {
    "level": "level = {level}: intervals cover between 0.5 and 1, e.g. 0.9",
    "one budget": "give one budget: tokens (--tokens 20B), or compute, device-hours or money (--compute "
    "1e21, --device-hours 500, --money 2000)",
    "slip": "{what} = {value:g}: more than {largest:g} {unit} is not planned with; is it a slip of the pen?",
    "positive": "{what} = {value}: it must be positive and finite",
    "vocab": "vocab = {vocab}, context = {context}: both are positive whole numbers",
    "students served": "students_served = {count}: at least the one being planned",
    "largest is best": "with tokens given and the size free, the largest student is always best: give "
    "--student, or the largest one you can serve (--max-student 3B, --serve-memory 8e9)",
    "tiny model": "{who} of {params:g} parameters: write 300M for 300 million",
    "over the limit": "the student ({params:size}) is larger than the largest that can be served "
    "({limit:size}); lower --student or raise the limit",
    "serving takes all": "compute {compute:flop} is less than serving {served:count} tokens with a "
    "{params:size} student costs by itself: nothing is left to train on. Raise the budget, or take a "
    "smaller student or fewer inference_tokens",
    "few per parameter": "{given} for a {params:size} {who} is {ratio:.2g} tokens per parameter; below "
    "{least} nothing is learnt that a law or a study describes. Take a smaller {who} or a larger budget",
    "given tokens": "{tokens:count} tokens",
    "given compute": "compute {compute:flop}",
    "tokenizers": "teachers with {count} tokenizers ({names}): nats/token of one are not those of another, "
    "and logits can be distilled only into the teacher's own vocabulary. Compare them in bits per byte: "
    "distillaw scout MODEL ... --text FILE measures them; then plan with those of one tokenizer",
    "teacher standard error": "teacher {what} = {value:g}: a standard error is at least 0 and below the loss "
    "it belongs to",
    "teacher needs": "teacher '{name}': a law needs its loss, or its size and tokens to estimate the loss; "
    "give --teacher-loss, or both --teacher-params and --teacher-tokens",
    "no teacher left": "--only-existing leaves no teacher: none was named. Give --teacher NAME, "
    "--teacher-params with --teacher-tokens or --teacher-loss, or --study",
    "start needs larger": "--start pruned cuts the student out of a teacher, which must be larger: {largest:size} is "
    "no more than the student's {params:size}. Name a larger --teacher, or leave out --start",
    "start needs size": "--start pruned: what is cut depends on the student's size; give --student",
    "self needs": "--teacher self: the student itself, trained before; give --student and --tokens",
    "ensemble of one": "--ensemble {count}: the mean of at least 2 models; leave it out for one",
    "ensemble needs": "--ensemble {count}: give the size of one model (--teacher-params) and the measured loss of the "
    "mean (--teacher-loss), without --teacher or --teacher-tokens: no law knows what a mean of models reaches",
    "no law": "no law to plan with ({said}). Name one with --law, or allow the published ones",
    "pays for none": "compute {compute:flop} pays for no teacher considered. Raise it, name a teacher of "
    "known size that exists, share its bill (--students-served), or choose --scenario best-case",
    "trains none": "compute {compute:flop} trains no student of any size{serving}: below {least} tokens per "
    "parameter nothing is learnt that a law describes. Raise it",
    "after serving": " after serving {tokens:count} tokens",
    "teacher unpriced": "{teacher} must be trained at this student's cost, and without its size and tokens "
    "nobody can price that: give --teacher-params and --teacher-tokens, or --scenario inference if somebody "
    "else has paid",
    "bill alone": "what {student} costs without a teacher, {compute:flop}: no teacher is at hand",
    "bill with": "what {student} costs with {teacher} and its training, {compute:flop}",
    "worse than guessing": "teacher loss {loss:g} nats/token is worse than guessing among {vocab} tokens "
    "({most:.3f}); give the loss in nats/token, or --vocab",
    "baseline guesses": "baseline loss {loss:g} nats/token is worse than guessing among {vocab} tokens "
    "({most:.3f}); give the loss in nats/token, or --vocab",
    "baseline idle": "--student-loss does nothing here: it brings published laws to your text, and only laws fitted on "
    "your own runs are asked; leave it out, or --no-published",
    "baseline rises": "baselines of {params:size}: {first:g} nats/token after {few:count} tokens and {second:g} after "
    "{many:count}: losses of finished runs fall with their tokens, and equal runs agree; give held-out losses at the "
    "end of each run's schedule, all on one text",
    "below the floor": "teacher loss {loss:g} is below the irreducible loss {floor:g} nats/token of every "
    "law here. Is it in bits per byte, or on other text? Give nats/token, or plan on your own study (--study)",
    "mfu": "mfu = {mfu:g}: utilisation is a fraction of peak in (0, 1], e.g. 0.4",
    "no price": "no price is known for {device}; give --price, US dollars per device-hour",
    "price": "price = {price:g}: US dollars per device-hour, positive and finite, e.g. 2.5",
    "budget positive": "{how}: a budget must be positive and finite",
    "hours": "{hours:g} device-hours",
    "dollars": "{money:,.0f} $ at {price:g} $ per device-hour",
    "budget buys": "{how} of {device} at {share:.0f} % of peak{span}: {flop:flop}",
    "utilisation seen": " ({low:g} to {high:g} are seen)",
    "limit positive": "--{option} {value:g}: it must be positive and finite",
    "needs bandwidth": "--serve-latency needs --serve-bandwidth: the bytes per second that the device reads",
    "holds none": "{why} holds no student at all with a vocabulary of {vocab} at {bytes:g} bytes a weight",
    "limit": "{why} at {bytes:g} bytes a weight",
    "as given": "as given",
    "memory": "{memory:count} bytes of memory",
    "latency": "{ms:g} ms per token",
}
_EXPLANATION = {
    "step FLOP": "student: F({params:size}) = 2 N (1 + sigma1 n_ctx / N^(1/3) + sigma2 n_vocab / N^(2/3)) = "
    "{student:.4g} FLOP per token; training takes 3 F = {training:.4g}",
    "step unpriced": "{teacher} has no known size: its logits cannot be priced",
    "step bill": "bill: C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T), delta_Lgt = "
    "{logits:.3g}, delta_Pre = {training:.3g}, F(N_T) = {teacher:.4g}",
    "step tokens": "tokens on {compute:flop}: D = {own:count} without a teacher, {taught:count} with it",
    "step law": "{source} ({of}): L(N, D) = E + (A/N^alpha + B/D^beta)^gamma, E = {E:.4g}, A = {A:.4g}, B = "
    "{B:.4g}, alpha = {alpha:.4g}, beta = {beta:.4g}, gamma = {gamma:.4g}",
    "step laws": "{count} laws, medians shown",
    "step one law": "one law",
    "step alone": "without a teacher: L({params:size}, {tokens:count}) = {loss} nats/token",
    "step teacher": "teacher: L_T = {loss}; against the student's own loss on its tokens r = L_T / Ltilde_S "
    "= {ratio:.3f}",
    "step realised": "{share:.0f} % of the law's gain are counted: range, recipe, what outcomes taught",
    "step text": "all of that on the law's own text; losses on yours are {ratio:.4f} times as high",
    "step given elsewhere": "{loss:.4f} given, {here} on the law's text",
    "step given": "{here} (given)",
    "step estimated": "{here} (L({params:size}, {tokens:count}))",
    "step estimated elsewhere": "{found} on the law's text, {loss:.4f} on yours",
    "step distilled": "distilled: L_S = L_T + L_T^(-c0) exp(-h(r)) (A'/N^alpha' + B'/D^beta')^gamma' with c0 "
    "= {c0:.4g}, kappa = {kappa:.4g}, f1 = {f1:.4g}: exp(-h) = {factor:.3f}, so L_S = {teacher:.4f} + "
    "{lacking:.4f} = {loss}",
    "step span": "{mean:.4f} ({low:.4f} to {high:.4f})",
    "step mean": "{mean:.4f}",
    "step gain": "gain by {source}: {gain:interval}{doubt}",
    "step doubt": ", of which {doubt:.4f} (sd, t with {dof:g} degrees of freedom) is doubt of the form",
    "step together": "together (densities multiplied): {gain:interval}",
    "step margin": "margin = max({share:.2%} of the loss = {floor:.4f}, noise {noise:.4f}) = {margin:.4f}; {called}",
    "step uncalled": "no probability: nothing that may decide reaches this question",
    "step called": "P(gain > margin) = {distil:.3f}, P(-gain > margin) = {pretrain:.3f}; called from "
    "{sure:g} on: {verdict}",
}
PHRASES: Mapping[str, str] = {
    **_VERDICT,
    **_REASONS,
    **_CHANGES,
    **_OPTIONS,
    **_ASSUMPTIONS,
    **_WARNINGS,
    **_EVIDENCE,
    **_REFUSALS,
    **_EXPLANATION,
}
