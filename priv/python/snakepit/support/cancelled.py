"""The exception that ends a tool. A module of tools can be imported without the native part, and so can this."""


class Cancelled(BaseException):
    """Nobody waits for this call's result any more. Let it pass: `except Exception` does."""

    # Where it is imported from: callers see this name.
    __module__ = "snakepit"
