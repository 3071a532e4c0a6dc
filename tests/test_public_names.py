import softprompt


def test_the_public_names_are_these_and_exist() -> None:
    verbs = {
        "attach", "compare", "distil", "evaluate", "export_run", "from_files", "get_recipe", "get_task", "import_run",
        "load", "load_prompt", "make_prompt", "predict", "reproduce", "resume", "save_prompt", "solve_budget", "sweep",
        "train",
    }  # fmt: skip
    nouns = {
        "METHODS", "Backbone", "Bank", "Example", "Folded", "Plan", "Prompt", "Recipe", "Soft", "SoftEmbedding",
        "SoftPrompt", "SoftPromptError", "Task", "Text",
    }  # fmt: skip
    assert set(softprompt.__all__) == verbs | nouns
    for name in verbs:
        assert getattr(softprompt, name).__doc__, name
