"""The Python side of `mix snakepit.bench`: tools to be called, and floors that nothing can be faster than."""
