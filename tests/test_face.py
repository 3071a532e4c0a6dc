import softprompt


def test_the_public_names_are_these_and_exist() -> None:
    verbs = {
        "attach", "compare", "distil", "evaluate", "export_prompt", "import_prompt", "load_backbone", "load_prompt",
        "make_prompt", "predict", "register_method", "reproduce", "resume", "save_prompt", "sweep", "train",
    }  # fmt: skip
    nouns = {
        "Example", "Method", "OffsetPart", "Options", "Prompt", "PromptPart", "Rate", "SoftPrompt", "SoftPromptError",
        "Task",
    }  # fmt: skip
    assert set(softprompt.__all__) == verbs | nouns
    for name in verbs:
        assert getattr(softprompt, name).__doc__, name
