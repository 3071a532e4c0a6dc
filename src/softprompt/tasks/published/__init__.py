"""Published tasks: where their rows come from, how they are split and asked."""
