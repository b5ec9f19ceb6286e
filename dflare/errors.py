"""The exceptions a user is meant to read."""


class InputError(Exception):
    """Something handed in is wrong; the message is one sentence: what was expected, what came, which file or key.

    The command line prints it without a traceback and exits with code 2.
    """


class OutOfTime(Exception):  # noqa: N818  (an ending, not an error)
    """The time that the user allowed is over; what is there is kept, and running again continues."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
