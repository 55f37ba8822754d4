"""Exit statuses of training processes and of `megachar launch`."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a status says to scripts and schedulers."""

    DONE = 0
    """The run is finished."""
    FAILED = 1
    """An error that is not the user's: the traceback is in the rank's log. Of `megachar launch`: it gave up."""
    USER_ERROR = 2
    """A setting, file or machine that has to be mended first; starting again would not help."""
    PEER_FAILED = 3
    """This rank was well and ended because another one failed, hung or vanished."""
    LAUNCHER_LOST = 4
    """This rank was well and ended because what had started it is gone."""
    PREEMPTED = 75
    """Asked to leave by SIGTERM or SIGUSR1: a checkpoint was saved, and the run continues with --resume. 75 is TEMPFAIL
    of sysexits.h: try again later."""
