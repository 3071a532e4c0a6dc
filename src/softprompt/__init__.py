"""softprompt: soft-prompt tuning of frozen language models."""
