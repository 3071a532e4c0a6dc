"""Published tasks: their rows, splits, templates and metrics."""
