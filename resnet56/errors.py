"""The one exception that means: what you gave us cannot work, and here is what to do."""


class InputError(ValueError):
    """Bad input: one line that says what is wrong and what to do about it.

    The command line prints it without a traceback and exits with status 2. In Python it is a plain ValueError.
    """


class NonFiniteLoss(ArithmeticError):
    """The loss or a weight became infinite or not a number; training stopped."""
