"""Has two tools of one name."""

from snakepit import tool


@tool
def add(a, b):
    return a + b


@tool(name="add")
def other(a, b):
    return a - b
