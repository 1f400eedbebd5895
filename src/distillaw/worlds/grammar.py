"""A grammar of nested clauses, bounded in depth, as the hidden Markov model that it then is.

    TEXT     -> CLAUSE(k) TEXT                        the kind k depends on that of the clause before
    CLAUSE(k) -> open(k) ITEM(k)* close(k)
    ITEM(k)  -> word(k, phase) | CLAUSE(j)            the kind j depends on k; not below the last depth

Words, opening and closing of a clause agree in its kind, so a reader must remember every clause that is still open.
Which clauses are open is the stack; a state is a stack and what was just said in its innermost clause. With the depth
bounded there are finitely many, and the forward filter is exact: no chart, no approximation.
"""

import itertools

import numpy as np

from distillaw.worlds.hmm import HiddenMarkov
from distillaw.worlds.language import Floats, softmax, with_entropy
from distillaw.worlds.spec import GrammarSpec

Stack = tuple[int, ...]
"""Kinds of the open clauses, the innermost last."""
State = tuple[Stack, int]
"""A stack and what was said: OPEN, CLOSE (its innermost clause ends with it), or the phase of a word."""
OPEN, CLOSE = -1, -2


def random_grammar(spec: GrammarSpec, words: int, generator: np.random.Generator) -> HiddenMarkov:
    """A grammar with random lexicons and random preferences."""
    states = [(stack, said) for stack in _stacks(spec) for said in (OPEN, CLOSE, *range(spec.phases))]
    index = {state: i for i, state in enumerate(states)}
    rules = _Rules(spec, generator)
    transition_SS = np.zeros((len(states), len(states)))
    for state in states:
        for following, probability in rules.successors(state):
            transition_SS[index[state], index[following]] += probability
    lexicon = _lexicon(spec, words, generator)
    emission_SW = np.stack([lexicon[stack[-1], said] for stack, said in states])
    return HiddenMarkov(transition_SS, emission_SW)


def _stacks(spec: GrammarSpec) -> list[Stack]:
    return [
        stack
        for depth in range(1, spec.depth + 1)
        for stack in itertools.product(range(spec.kinds), repeat=depth)
    ]


class _Rules:
    """Which state follows which, with what probability."""

    def __init__(self, spec: GrammarSpec, generator: np.random.Generator) -> None:
        self._spec = spec
        kinds, phases = spec.kinds, spec.phases
        self._next_clause = softmax(generator.standard_normal((kinds, kinds)))
        self._inner_clause = softmax(generator.standard_normal((kinds, kinds)))
        # a row per phase, one for after an opening, one for after an inner clause
        self._next_phase = softmax(2 * generator.standard_normal((kinds, phases + 2, phases)))

    def successors(self, state: State) -> list[tuple[State, float]]:
        """States that can follow, with their probabilities."""
        stack, said = state
        if said != CLOSE:
            return self._inside(stack, said)
        if len(stack) > 1:
            return self._inside(stack[:-1], CLOSE)
        return [(((kind,), OPEN), p) for kind, p in enumerate(self._next_clause[stack[0]])]

    def _inside(self, stack: Stack, before: int) -> list[tuple[State, float]]:
        """What follows inside the innermost clause of a stack, after a phase, an opening or an inner clause."""
        spec, kind = self._spec, stack[-1]
        nest = spec.nest if len(stack) < spec.depth else 0.0
        following: list[tuple[State, float]] = [((stack, CLOSE), spec.close)]
        if nest:
            following += [(((*stack, j), OPEN), nest * p) for j, p in enumerate(self._inner_clause[kind])]
        say = 1 - spec.close - nest
        return following + [
            ((stack, phase), say * p) for phase, p in enumerate(self._next_phase[kind, before])
        ]


def _lexicon(spec: GrammarSpec, words: int, generator: np.random.Generator) -> dict[tuple[int, int], Floats]:
    """Word probabilities (W,) of (kind, what is said); opening and closing words of a kind are its own."""
    size, classes = spec.bracket_words, 2 * spec.kinds
    brackets = classes * size
    scores = generator.standard_normal((spec.kinds * spec.phases, words - brackets))
    plain = iter(with_entropy(scores, spec.word_nats))
    lexicon = {}
    for kind in range(spec.kinds):
        for said, which in ((OPEN, 2 * kind), (CLOSE, 2 * kind + 1)):
            probs_W = np.zeros(words)
            probs_W[which * size : (which + 1) * size] = softmax(generator.standard_normal(size))
            lexicon[kind, said] = probs_W
        for phase in range(spec.phases):
            lexicon[kind, phase] = np.concatenate([np.zeros(brackets), next(plain)])
    return lexicon
