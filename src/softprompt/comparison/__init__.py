"""Methods beside each other: the same tasks, budgets, steps and seeds, and how sure their differences are."""
