"""The worker at work: lanes, calls, the control loop, start and end."""
