"""Files, processes, signals and logging: nothing about prompts."""
