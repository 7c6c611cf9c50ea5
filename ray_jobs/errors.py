"""The error tree: every error is either worth retrying or a reason to stop.

    PipelineError
    ├── RetryableError    the same call may go through later (a timeout, a throttled store)
    └── FatalError        the run cannot go on, whatever is retried
        ├── SpecError     the run specification is wrong
        ├── ModelError    weights are missing, truncated or of the wrong kind
        └── OutputError   the output cannot be written or does not match the plan

    CallError             not of the tree: one call cannot be processed; becomes its Failure, the run goes on

Every class survives pickling with its message and attributes: errors cross process borders in Ray and Spark.
"""


class PipelineError(Exception):
    """Base of the errors that concern a run; the message is one line that names the thing and the fix."""


class RetryableError(PipelineError):
    """A passing fault: the same operation may succeed when it is tried again."""


class FatalError(PipelineError):
    """The run cannot go on."""


class SpecError(FatalError):
    """The run specification, or what it names, is wrong."""


class ModelError(FatalError):
    """Model weights are missing, truncated or of the wrong kind."""


class OutputError(FatalError):
    """The output cannot be written, or does not hold what the plan says."""


class CallError(Exception):
    """One call cannot be processed.

    `code` is one of `ray_jobs.records.FAILURE_CODES`; `reason` is one line for a person.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"
