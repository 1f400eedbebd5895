"""Every error a user can meet, in one tree.

    DistillawError
      ConfigError(ValueError)      bad spec, unknown key, contradictory settings
      UnitError(ValueError)        conventions or units mixed
      DataError(ValueError)        text, tokens or observations that cannot be used
      FitError(RuntimeError)       no usable estimate at all; soft problems are a FitStatus
      VocabularyError(ValueError)  teacher and student do not share a vocabulary
      CacheError(OSError)          a file on disk is missing, truncated or made from something else
      RunError(RuntimeError)       out of memory or disk, resumed with another spec
        DivergedError              loss or gradient not finite: trying again would only repeat it

A message says what happened, the values seen, the rule, and the next action. Each class is picklable
(workers send them home) and carries the standard-library parent that a caller would expect.
"""


class DistillawError(Exception):
    """Base of all errors raised on purpose; the command line prints its message without a traceback."""

    is_told = False
    """Whether another of the processes that work together says it."""


class ConfigError(DistillawError, ValueError):
    """A specification that cannot be run: unknown key, impossible or contradictory value."""


class UnitError(DistillawError, ValueError):
    """Units or parameter conventions that do not match."""


class DataError(DistillawError, ValueError):
    """Text, tokens or observations that cannot be used as asked."""


class FitError(DistillawError, RuntimeError):
    """No usable estimate at all. Soft problems are a status of the result, not an error."""


class VocabularyError(DistillawError, ValueError):
    """Teacher and student targets do not line up token by token."""


class CacheError(DistillawError, OSError):
    """A stored file is missing, truncated, altered, or was made from something else."""

    def __str__(self) -> str:
        """The message alone: OSError would otherwise print an errno tuple for two arguments."""
        return str(self.args[0]) if self.args else ""


class RunError(DistillawError, RuntimeError):
    """A run that cannot go on: out of memory or disk, resumed with another spec."""


class DivergedError(RunError):
    """Loss or gradient is not finite; the same spec diverges again, so it is not tried again."""


class DistillawWarning(UserWarning):
    """The one warning class: something is usable but doubtful. An error in our own tests."""
