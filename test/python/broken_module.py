"""Fails to import."""


def helper():
    return {}["missing"]


helper()
