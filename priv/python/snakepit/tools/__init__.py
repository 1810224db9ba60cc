"""Tools: how they are found, what their signatures say, how arguments are checked and made."""
