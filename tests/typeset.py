"""How the planner page prints the words of the command (web/src/view/typeset.ts), written once more."""

import re


def people(sentence):
    """The command's words as the page prints them: powers of ten raised, minus signs."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def power(match):
        mantissa, exponent = match[1], str(int(match[2])).translate(raised)
        return f"10{exponent}" if float(mantissa) == 1 else f"{mantissa}×10{exponent}"

    return re.sub(r"(?<![\w.)\]-])-(?=\d)", "−", re.sub(r"(?<![\w.])(\d(?:\.\d+)?)e\+?(-?\d+)", power, sentence))
