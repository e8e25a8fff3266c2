"""Exit statuses of the command line."""

DONE, FAILED, BAD_INPUT, CANCELLED = 0, 1, 2, 130
