"""The errors a user can cause or meet. Each message says what is wrong, names the value, and gives the mend.

`assert` is for our own invariants; anything a user's input can bring about raises one of these.
"""


class MegacharError(Exception):
    """Base of every error that is shown to the user as one message, without a traceback."""


class ConfigError(MegacharError):
    """A setting is unknown, out of range, owned twice, or does not fit another setting."""


class DataError(MegacharError):
    """A corpus or dataset is missing, empty, damaged, or does not fit the model."""


class CheckpointError(MegacharError):
    """A checkpoint is missing, incomplete, damaged, or was written for another model."""


class OwnershipError(MegacharError):
    """A run folder is another process's, which trains there."""


class DivergenceError(MegacharError):
    """Training was stopped because too many steps in a row had a bad loss or gradient."""


class PlatformError(MegacharError):
    """The machine or its libraries cannot run what is asked (versions, devices, compilers)."""


class Preempted(Exception):
    """Not an error: the run was asked to leave, has saved a checkpoint, and goes on another time."""
