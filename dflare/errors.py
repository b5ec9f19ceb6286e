"""The one exception a user is meant to read."""


class InputError(Exception):
    """Something handed in is wrong; the message is one sentence: what was expected, what came, which file or key.

    The command line prints it without a traceback and exits with code 2.
    """
