"""The modules that every other room uses: errors, fixed numbers, forked children, the call that runs."""
